//! The problems that a change is refused with.

use shunt_api::Problem;

use crate::change::ChangeError;
use crate::served::Served;
use crate::service::ServedZone;
use crate::size;
use crate::state_file::StateFileError;
use crate::table::Table;
use crate::zone::ZoneError;

/// A change that the upstream's state does not allow.
pub fn of_change(error: &ChangeError) -> Problem {
    Problem::new(error.status(), error.to_string())
}

/// What is wrong with a zone.
pub fn of_zone(error: &ZoneError) -> Problem {
    let status = match error {
        ZoneError::NoRecord(_)
        | ZoneError::NoColumn(_)
        | ZoneError::NoWorker(_)
        | ZoneError::NoBlocks { .. } => 507,
        ZoneError::NoIndex(_) | ZoneError::Retired => 409,
        ZoneError::TooSmall | ZoneError::Foreign | ZoneError::Damaged(_) => 500,
    };
    Problem::new(status, error.to_string())
}

/// A state file that cannot be written.
pub fn of_state_file(error: &StateFileError) -> Problem {
    Problem::new(507, format!("{error}; nothing was changed"))
}

/// A zone that cannot take this table of an upstream. One that is full is told the size that would do.
pub fn of_full_zone(
    zone: &ServedZone<'_>,
    served: &Served,
    error: &ZoneError,
    table: &Table,
) -> Problem {
    let problem = of_zone(error);
    if problem.status != 507 {
        return problem;
    }
    let others = zone.zone.states().flatten().filter(|(at, _)| Some(*at) != served.record);
    let tables: Vec<Table> =
        others.map(|(_, s)| (*s.table).clone()).chain([table.clone()]).collect();
    let size = size::that_would_do(zone.zone.bytes(), zone.zone.rows_of_next(), &tables);
    let larger = size.map_or_else(
        || "give its upstreams several zones".to_owned(),
        |size| format!("give it {} and reload", size::directive(zone.name, size)),
    );
    Problem::new(507, format!("{error}; delete releases, or {larger}"))
}
