#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::duration`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::duration::run(input);
});
