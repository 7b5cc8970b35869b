#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::address`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::address::run(input);
});
