//! Less that still makes a run fail: delta debugging on lists, earlier faults and milder ones.

use super::{Fault, FaultAt};

/// Takes away from a list as long as `fails` says that the run still fails in the same way without it. What is left fails,
/// and if `fails` never refused to try, taking any one of it away makes the run hold.
///
/// # Errors
/// What `fails` says.
pub fn fewer<T: Clone, E>(mut list: Vec<T>, mut fails: impl FnMut(&[T]) -> Result<bool, E>) -> Result<Vec<T>, E> {
    if list.is_empty() || fails(&[])? {
        return Ok(Vec::new());
    }
    let mut parts = 2;
    while list.len() > 1 {
        let size = list.len().div_ceil(parts);
        let mut found = None;
        for at in (0..list.len()).step_by(size) {
            let is_left = |(place, _): &(usize, &T)| !(at..at + size).contains(place);
            let rest: Vec<T> = list.iter().enumerate().filter(is_left).map(|(_, one)| one.clone()).collect();
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

/// Puts a milder fault in the place of each that still makes the run fail in the same way when it is milder.
///
/// # Errors
/// What `fails` says.
pub fn weaker<E>(mut list: Vec<Fault>, mut fails: impl FnMut(&[Fault]) -> Result<bool, E>) -> Result<Vec<Fault>, E> {
    for place in 0..list.len() {
        while let Some(class) = list[place].class.milder() {
            let mut milder = list.clone();
            milder[place].class = class;
            if !fails(&milder)? {
                break;
            }
            list = milder;
        }
    }
    Ok(list)
}

/// Lets faults that are addressed by a count happen earlier, as long as the run fails in the same way: then less has to go
/// before them.
///
/// # Errors
/// What `fails` says.
pub fn earlier<E>(mut list: Vec<Fault>, mut fails: impl FnMut(&[Fault]) -> Result<bool, E>) -> Result<Vec<Fault>, E> {
    for place in 0..list.len() {
        while let FaultAt::Commit { n } | FaultAt::Poll { n, .. } = list[place].at {
            let mut found = None;
            for sooner in [n / 8, n / 2, n - n / 4, n - n / 8].into_iter().filter(|sooner| (1..n).contains(sooner)) {
                let mut candidate = list.clone();
                if let FaultAt::Commit { n } | FaultAt::Poll { n, .. } = &mut candidate[place].at {
                    *n = sooner;
                }
                if fails(&candidate)? {
                    found = Some(candidate);
                    break;
                }
            }
            match found {
                Some(candidate) => list = candidate,
                None => break,
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::FaultClass;

    /// A panic where an error would do, a death of the machine where a pause would: the milder one is kept.
    #[test]
    fn a_fault_is_put_in_the_place_of_a_harder_one_where_it_is_enough() {
        let at = |n| FaultAt::Commit { n };
        let hard = |n| Fault { class: FaultClass::PowerLoss, at: at(n) };
        let asked = std::cell::RefCell::new(Vec::new());
        let found = weaker(vec![hard(1), hard(2)], |list| {
            let classes: Vec<_> = list.iter().map(|fault| fault.class).collect();
            asked.borrow_mut().push(classes.clone());
            Ok::<_, ()>(matches!(classes[..], [FaultClass::Crash | FaultClass::Stop, FaultClass::PowerLoss]))
        });
        assert_eq!(found.expect("no error"), [Fault { class: FaultClass::Stop, at: at(1) }, hard(2)]);
        assert_eq!(asked.into_inner().len(), 4);
        for class in FaultClass::SURVIVED {
            let down = std::iter::successors(Some(class), |class| class.milder());
            assert!(down.count() < FaultClass::SURVIVED.len(), "{} is milder than itself", class.name());
        }
    }
}
