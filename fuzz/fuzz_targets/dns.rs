#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| outrigger_dns::decoders::read_input(input));
