//! What valgrind's callgrind writes down of a process.

use std::path::Path;

/// How callgrind has to be asked, for files that [`Profile::read`] understands.
pub const OPTIONS: [&str; 4] =
    ["--tool=callgrind", "--dump-line=no", "--compress-strings=no", "--compress-pos=no"];

/// The C library's functions that give memory and take it back.
const ALLOCATOR: [&str; 6] = ["malloc", "calloc", "realloc", "free", "posix_memalign", "memalign"];

/// The instructions of a process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Those outside of the allocator.
    pub instructions: u64,
    /// Calls of the allocator.
    pub allocations: u64,
    /// The instructions of these calls.
    pub allocator: u64,
}

impl Profile {
    /// Reads a file of callgrind's; `None` as long as it is not complete.
    pub fn read(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(path).ok()?)
    }

    /// A function's costs follow its object (`ob=`) and name (`fn=`). A call is three lines or four:
    /// the other object if it is another one (`cob=`), the name (`cfn=`), how many times (`calls=`),
    /// and what that has cost with all that it led to.
    fn parse(text: &str) -> Option<Self> {
        let mut profile = Self::default();
        let (mut object, mut callee_object, mut callee) = ("", None, "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(total) = line.strip_prefix("totals: ") {
                let total: u64 = total.trim().parse().ok()?;
                profile.instructions = total.checked_sub(profile.allocator)?;
                return Some(profile);
            }
            match line.split_once('=') {
                Some(("ob", name)) => object = name,
                Some(("cob", name)) => callee_object = Some(name),
                Some(("cfn", name)) => callee = name,
                Some(("calls", calls)) => {
                    let cost = lines.next()?;
                    // Not what the allocator calls itself.
                    let entered = callee_object.take().is_some_and(|name| name != object);
                    if entered && ALLOCATOR.contains(&callee) {
                        profile.allocations += first(calls)?;
                        profile.allocator += first(cost.split_once(' ')?.1)?;
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// The first number of a line.
fn first(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# callgrind format
version: 1
events: Ir

ob=/usr/sbin/nginx
fl=???
fn=ngx_alloc
0 20
cob=/lib/libc.so.6
cfi=???
cfn=malloc
calls=2 0
0 150
cfn=ngx_log
calls=1 0
0 7

ob=/lib/libc.so.6
fn=malloc
0 50
cfn=posix_memalign
calls=9 0
0 100

totals: 300
";

    #[test]
    fn what_the_allocator_costs_is_told_apart_and_counted_where_it_is_entered() {
        let profile = Profile { instructions: 150, allocations: 2, allocator: 150 };
        assert_eq!(Profile::parse(FILE), Some(profile));
    }

    #[test]
    fn a_file_that_is_not_complete_says_nothing() {
        for end in (0..FILE.len() - 5).step_by(7) {
            assert_eq!(Profile::parse(&FILE[..end]), None, "{end}");
        }
    }
}
