//! devregistry
