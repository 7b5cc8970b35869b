//! The file of `token_file`, and the header `Authorization`.

use shunt_api::Token;

use crate::Verdict;

/// Takes what a file holds, and after a byte of 0 a header. Whatever is a token is in the header that
/// it makes, and no other header has it.
pub fn run(input: &[u8]) -> Verdict {
    let mut parts = input.splitn(2, |b| *b == 0);
    let (content, header) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let token = match Token::from_file(content) {
        Ok(token) => token,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Verdict::Refused;
        }
    };
    let own = token.authorization();
    // It becomes a header, and nothing of it a log line.
    assert!(own.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{own:?}");
    assert!(!format!("{token:?}").contains(own.trim_start_matches("Bearer ")));
    assert!(token.is_in(own.as_bytes()));
    // Only blanks around the token, and the case of the scheme, may be otherwise.
    let words: Vec<&[u8]> =
        header.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect();
    let same = own.split(' ').nth(1).map(str::as_bytes);
    let expected = matches!(words.as_slice(), [scheme, given]
        if scheme.eq_ignore_ascii_case(b"bearer") && Some(*given) == same);
    if token.is_in(header) {
        assert!(expected, "{header:?} has {own:?}");
    }
    Verdict::Accepted
}
