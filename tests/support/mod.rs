//! What tests share: a KMS emulator and a proxy that answers as AWS does where the emulator does
//! not. Servers listen on 127.0.0.1 and end with the last test that holds them.

#![allow(dead_code, reason = "each test program takes what it needs")]

pub(crate) mod http;
pub(crate) mod memory;
pub(crate) mod moto;
pub(crate) mod proxy;
