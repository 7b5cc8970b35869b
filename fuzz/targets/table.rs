#![no_main]
//! libFuzzer's entry to [`shunt_fuzz::table`].

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shunt_fuzz::table::run(input);
});
