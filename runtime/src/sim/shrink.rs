//! Fewer faults that still make a run fail: delta debugging on their list.

use super::Fault;

/// Takes faults away as long as `fails` says that the run still fails in the same way without them. What is left fails,
/// and if `fails` never refused to try, taking any one of it away makes the run hold.
///
/// # Errors
/// What `fails` says.
pub fn fewer_faults<E>(
    mut list: Vec<Fault>,
    mut fails: impl FnMut(&[Fault]) -> Result<bool, E>,
) -> Result<Vec<Fault>, E> {
    if list.is_empty() || fails(&[])? {
        return Ok(Vec::new());
    }
    let mut parts = 2;
    while list.len() > 1 {
        let size = list.len().div_ceil(parts);
        let mut found = None;
        for at in (0..list.len()).step_by(size) {
            let is_left = |(place, _): &(usize, &Fault)| !(at..at + size).contains(place);
            let rest: Vec<Fault> = list.iter().enumerate().filter(is_left).map(|(_, fault)| fault.clone()).collect();
            if fails(&rest)? {
                found = Some(rest);
                break;
            }
        }
        match found {
            Some(rest) => (list, parts) = (rest, (parts - 1).max(2)),
            None if size == 1 => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    Ok(list)
}
