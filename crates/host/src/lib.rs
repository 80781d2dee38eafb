//! The daemon of one machine: what should exist, what runs, and who may change it. Command line, REST API and page are three faces of
//! it.

pub mod store;
