//! Times as NGINX writes them.

use shunt_api::NginxTime;

use crate::{Verdict, parse, reads_the_same};

/// Whatever is a time is one for NGINX, too, of the same length, and is written so that it reads the
/// same.
pub fn run(input: &[u8]) -> Verdict {
    let Some((time, text)) = parse::<NginxTime>(input) else { return Verdict::Refused };
    let ms = time.duration().as_millis();
    assert_eq!(nginx(text).map(u128::from), Some(ms), "{text:?}");
    assert_eq!(time.to_string().parse(), Ok(time));
    reads_the_same(&time);
    Verdict::Accepted
}

/// What NGINX makes of it, in milliseconds: `ngx_parse_time()` of `src/core/ngx_parse.c`, without
/// years and months, and without its limits.
fn nginx(text: &str) -> Option<u64> {
    let (mut total, mut value, mut step, mut valid) = (0u64, 0u64, 0, false);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii_digit() {
            value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            valid = true;
            continue;
        }
        // The largest unit may come first, and each only after larger ones.
        let (rank, scale) = match byte {
            b'w' => (1, 604_800_000),
            b'd' => (2, 86_400_000),
            b'h' => (3, 3_600_000),
            b'm' if bytes.next_if_eq(&b's').is_some() => (6, 1),
            b'm' => (4, 60_000),
            b's' => (5, 1_000),
            b' ' => (5, 1_000),
            _ => return None,
        };
        if step >= rank || !valid {
            return None;
        }
        step = rank;
        total = total.checked_add(value.checked_mul(scale)?)?;
        (value, valid) = (0, false);
        while bytes.next_if_eq(&b' ').is_some() {}
    }
    match (valid, step) {
        // A number without a unit counts seconds, and is the last.
        (true, step) if step < 5 => total.checked_add(value.checked_mul(1_000)?),
        (true, _) => None,
        (false, step) => (step > 0).then_some(total),
    }
}
