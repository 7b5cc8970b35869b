//! Tables of releases, as they lie in shared memory.

use shunt_switch::table::Table;

use crate::Verdict;

/// Whatever is a table is written so that it reads the same, and its releases can be found.
pub fn run(input: &[u8]) -> Verdict {
    let Some(table) = Table::from_bytes(input) else { return Verdict::Refused };
    assert_eq!(Table::from_bytes(&table.to_bytes()).as_ref(), Some(&table));
    for entry in &table.releases {
        assert!(table.by_index(entry.index).is_some());
        assert!(table.by_name(entry.name.as_str()).is_some());
        assert!(entry.servers.iter().all(|m| m.addresses().next().is_some()));
    }
    if let Some(free) = table.free_index() {
        assert!(table.by_index(free).is_none());
    }
    Verdict::Accepted
}
