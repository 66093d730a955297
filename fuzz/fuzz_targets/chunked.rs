#![no_main]

#[path = "../../crates/http1/tests/hostile/checks/mod.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::chunked(input));
