"""How results look: tables, JSON, plots, pictures and progress. The one room with rich and matplotlib."""
