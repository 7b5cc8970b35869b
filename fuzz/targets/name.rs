#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::name`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::name::run(input);
});
