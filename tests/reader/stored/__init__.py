"""The stored format of cmkfs, read a second time: written from FORMAT.md alone.

Each module takes one section of that document, names it, and shares no code with the Rust crate.
"""
