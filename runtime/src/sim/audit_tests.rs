//! What the account of a simulation keeps and forgets.

use super::*;

/// One team of one agent, which wants what is at these seqs.
fn account(wanted: &[u64]) -> State {
    let name = Name::new("a").expect("a name");
    let mut state = State::default();
    let team = state.team(&name);
    let wants = Interest::in_topics(Vec::new());
    let spec = Box::new(Spec { name, wants, owned: Arc::default(), attempts_max: 1 });
    let wanted = wanted.iter().map(|seq| (*seq, 0)).collect();
    state.agents.push(AgentAccount { spec, team, wanted, last: 0, alive: true });
    state.teams[team].members.push(0);
    (1..=9_u64).for_each(|n| _ = state.ids.push(EventId::from_bits(n.into())));
    state
}

fn left(state: &State) -> Vec<u64> {
    state.agents[0].wanted.iter().map(|(seq, _)| *seq).collect()
}

fn moved(state: &mut State, number: u64, cursor: u64) {
    let to = TeamRow { team: state.teams[0].name.clone(), epoch: 1, number, cursor: Seq(cursor) };
    let mut before = Before { last: 0, fold: 0, facts: Vec::new(), teams: Vec::new(), letters: Vec::new() };
    state.move_team(0, 0, &to, &mut before);
}

#[test]
fn what_a_cursor_passes_is_forgotten_and_what_comes_next_is_still_owed() {
    let mut state = account(&[3, 5, 6]);
    state.agents[0].last = 5;
    moved(&mut state, 1, 5);
    assert_eq!((left(&state), state.violations.len()), (vec![6], 0));
    // It was never given 6.
    moved(&mut state, 2, 7);
    assert_eq!((left(&state), state.violations.len()), (Vec::new(), 1));
}

#[test]
fn while_power_can_take_a_cursor_back_nothing_is_forgotten() {
    let mut state = account(&[3, 5]);
    state.keeps_volatile = true;
    state.volatile.push_back(Before { last: 0, fold: 0, facts: Vec::new(), teams: Vec::new(), letters: Vec::new() });
    state.agents[0].last = 5;
    moved(&mut state, 1, 5);
    assert_eq!(left(&state), [3, 5]);
    state.volatile.clear();
    moved(&mut state, 2, 5);
    assert!(left(&state).is_empty());
}
