#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gateway_tests::fuzz::packet(input));
