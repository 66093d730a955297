//! Static instances of a file.
