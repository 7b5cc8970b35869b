#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::damage`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::damage::run(input);
});
