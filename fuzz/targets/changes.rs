#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::changes`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::changes::run(input);
});
