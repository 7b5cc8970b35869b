#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::state_file`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::state_file::run(input);
});
