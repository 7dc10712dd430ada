//! The data path: route table, HTTP/1.1 and TCP, one worker per core.

pub mod h1;
