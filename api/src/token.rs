//! The secret by which a caller over TCP may change something.

use subtle::ConstantTimeEq;

/// A bearer token: 16 or more visible ASCII characters. It is never shown, and never written.
#[derive(Clone)]
pub struct Token(String);

/// Why the content of a file is not a token. It does not tell the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Whoever tries would find a shorter one.
    #[error("it must have {min} or more characters", min = Token::MIN)]
    Short,
    /// It could not stand in a header.
    #[error("it must be visible ASCII characters in one line")]
    Invisible,
}

impl Token {
    /// The shortest token: 16 characters of base64 are 96 bits.
    pub const MIN: usize = 16;

    /// Reads the content of a file, whose line end is none of it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the content.
    pub fn from_file(content: &[u8]) -> Result<Self, TokenError> {
        let end = content.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&content[..end]).map_err(|_| TokenError::Invisible)?;
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Invisible);
        }
        if text.len() < Self::MIN {
            return Err(TokenError::Short);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the value of a header `Authorization` has it: `Bearer`, and then the token
    /// (RFC 6750, section 2.1). It takes the same time wherever the two differ.
    #[must_use]
    pub fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, token)) = authorization.split_at_checked(b"bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ")
            && bool::from(token.trim_ascii().ct_eq(self.0.as_bytes()))
    }

    /// The value of a header `Authorization` with it.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789abcdef";

    #[test]
    fn a_file_holds_a_token_in_one_line() {
        for content in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n\n"] {
            let token = Token::from_file(content.as_bytes()).unwrap();
            assert_eq!(token.authorization(), format!("Bearer {TEXT}"));
            assert_eq!(format!("{token:?}"), "Token(…)");
        }
        for (content, error) in [
            (&b""[..], TokenError::Short),
            (b"\n", TokenError::Short),
            (b"0123456789abcde", TokenError::Short),
            (b"0123456789 bcdef", TokenError::Invisible),
            (b"0123456789abcdef\n0", TokenError::Invisible),
            (b"\xef\xbb\xbf0123456789abcdef", TokenError::Invisible),
            (b"\xff0123456789abcdef", TokenError::Invisible),
        ] {
            assert_eq!(Token::from_file(content).unwrap_err(), error, "{content:?}");
        }
    }

    #[test]
    fn a_header_has_the_scheme_in_any_case_and_the_token_in_its_own() {
        let token = Token::from_file(TEXT.as_bytes()).unwrap();
        for header in
            ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER   0123456789abcdef "]
        {
            assert!(token.is_in(header.as_bytes()), "{header}");
        }
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789ABCDEF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcdef 0",
            "Bearer0123456789abcdef",
            "Basic 0123456789abcdef",
            " Bearer 0123456789abcdef",
        ] {
            assert!(!token.is_in(header.as_bytes()), "{header}");
        }
    }
}
