"""Videos in, frames out: files, folders of pictures, resizing, and reading ahead in child processes."""
