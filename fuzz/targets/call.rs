#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::call`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::call::run(input);
});
