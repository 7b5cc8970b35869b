//! What NGINX's configuration says of an upstream's kept-open connections (`nginx -T`).

use std::process::Stdio;
use std::time::Duration;

use shunt_api::NginxTime;
use tokio::process::Command;

use crate::clock::Span;

/// What NGINX keeps open to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// Connections that nobody has used for less than this.
    For(Duration),
    /// It cannot be told.
    Unknown(String),
}

/// What it keeps where `keepalive_timeout` does not say it.
const DEFAULT: Duration = Duration::from_secs(60);

/// How long NGINX may take to show its configuration.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks NGINX.
pub async fn upstream(nginx: &[String], upstream: &str) -> Kept {
    let Some((program, args)) = nginx.split_first() else {
        return Kept::Unknown("no NGINX is named".to_owned());
    };
    let output = Command::new(program).args(args).arg("-T").stdin(Stdio::null()).output();
    match tokio::time::timeout(LIMIT, output).await {
        Ok(Ok(output)) if output.status.success() => {
            of_upstream(&String::from_utf8_lossy(&output.stdout), upstream)
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
            Kept::Unknown(format!("nginx -T: {last}"))
        }
        Ok(Err(error)) => Kept::Unknown(format!("{program}: {error}")),
        Err(_) => Kept::Unknown(format!("nginx -T takes longer than {}", Span(LIMIT))),
    }
}

/// What a configuration says.
fn of_upstream(text: &str, upstream: &str) -> Kept {
    let words = words(text);
    let is_it =
        |at: &usize| words[*at..].starts_with(&["upstream".into(), upstream.into(), "{".into()]);
    let Some(start) = (0..words.len()).find(is_it) else {
        return Kept::Unknown(format!("NGINX's configuration has no upstream {upstream:?}"));
    };
    let block = words[start + 3..].split(|word| word == "}").next().unwrap_or_default();
    let directive = |name: &str| {
        block.split(|word| word == ";").find_map(|words| match words {
            [first, value, ..] if first == name => Some(value.clone()),
            _ => None,
        })
    };
    // Where connections are kept without it, the application's own limit matters as much.
    match directive("keepalive") {
        None => Kept::Nothing,
        Some(_) => {
            let timeout = directive("keepalive_timeout");
            let timeout = timeout.and_then(|timeout| timeout.parse::<NginxTime>().ok());
            Kept::For(timeout.map_or(DEFAULT, NginxTime::duration))
        }
    }
}

/// The words of a configuration; `{`, `}` and `;` are words of their own.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_empty() => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' if word.is_empty() => {
                while let Some(inner) = chars.next_if(|inner| *inner != c) {
                    word.push(inner);
                }
                chars.next();
            }
            '\\' => word.extend(chars.next()),
            // As in "${name}".
            '{' if word.ends_with('$') => {
                word.push(c);
                word.extend(std::iter::from_fn(|| chars.next_if(|c| *c != '}')));
                word.extend(chars.next());
            }
            '{' | '}' | ';' => words.extend([std::mem::take(&mut word), c.to_string()]),
            c if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_says_what_it_keeps() {
        let of = |block: &str| {
            let text = format!(
                "# upstream web {{ keepalive 1; }}\nhttp {{ log_format x '{{;';\n\
                 upstream other {{ keepalive 9; }}\n  upstream   web\n{{ shunt; # keepalive 5;\n\
                 {block} }} server {{ set $x \"${{a}};\"; keepalive_timeout 5s; }} }}"
            );
            of_upstream(&text, "web")
        };
        assert_eq!(of(""), Kept::Nothing);
        assert_eq!(of("keepalive 32;"), Kept::For(Duration::from_secs(60)));
        let both = "keepalive 32; keepalive_timeout \"90s\";";
        assert_eq!(of(both), Kept::For(Duration::from_secs(90)));
        assert!(matches!(of_upstream("http { }", "web"), Kept::Unknown(_)));
    }

    #[tokio::test]
    async fn nginx_that_cannot_be_asked_is_no_error() {
        for nginx in [&["/nonexistent/nginx"] as &[&str], &["false"], &[]] {
            let nginx: Vec<_> = nginx.iter().map(|word| (*word).to_owned()).collect();
            assert!(matches!(upstream(&nginx, "web").await, Kept::Unknown(_)), "{nginx:?}");
        }
    }
}
