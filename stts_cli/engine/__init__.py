"""One path from a video and questions to answers: load, encode, generate, on a device."""
