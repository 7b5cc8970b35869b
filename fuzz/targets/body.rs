#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::body`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::body::run(input);
});
