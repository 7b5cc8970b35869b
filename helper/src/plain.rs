//! What others have written, as it may be shown on a terminal: none of it is an order to that.

/// The text without what a terminal would take for an order, as colours.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        if c == '\x1b' && chars.next_if_eq(&'[').is_some() {
            // Up to the letter that ends it (ECMA-48, 5.4).
            while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            chars.next();
        } else if !c.is_control() || c == '\t' {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_to_a_terminal_is_left() {
        for (from, to) in [
            ("a\tb é", "a\tb é"),
            ("\x1b[1;32mok\x1b[0m", "ok"),
            ("\x1b]0;title\x07x", "]0;titlex"),
            ("safe\rgone\x08\0\x7f\u{9b}31m", "safegone31m"),
            ("cut \x1b[", "cut "),
        ] {
            assert_eq!(plain(from), to);
        }
    }
}
