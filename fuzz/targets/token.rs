#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::token`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::token::run(input);
});
