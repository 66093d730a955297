#![no_main]

#[path = "../../crates/http1/tests/hostile/checks/mod.rs"]
#[allow(dead_code, reason = "each target uses some of the checks")]
mod checks;
mod share;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::request(input, share::is_for_hyper(input)));
