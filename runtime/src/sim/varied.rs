//! What a seed draws beside its faults: limits of the teams, bounds of the storage actor, level, policy and placement.

use std::fmt::Write as _;

use atra_storage::Level;

use super::{FaultClass, FaultPlan, Policy, Swarm, faults::TEAMS_PER_RATE};
use crate::Placement;

/// SplitMix64's finaliser: bits of a seed that have nothing to do with the seed's own.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The swarm as its seed has it.
pub(super) fn vary(mut swarm: Swarm) -> Swarm {
    let mut bits = scramble(swarm.seed);
    let mut pick = |from: &[usize]| {
        bits = scramble(bits);
        from[bits as usize % from.len()]
    };
    let (inputs, in_flight) = (pick(&[1, 7, 64, 256]), pick(&[1, 2, 4]));
    let (foreign, ahead) = (pick(&[1, 16, 512]), pick(&[256, 4_096]));
    swarm.storage.queue_commands_max = pick(&[2, 64, 4_096]);
    // At least one for each twenty teams. After an unclean stop every input takes two commands, and at one command
    // a batch two hundred teams bring more of them than a disk that stalls can take within the hour.
    swarm.storage.batch_commands_max = pick(&[1, 32, 1_024]).max(swarm.teams.len() / TEAMS_PER_RATE);
    swarm.level = [Level::Process, Level::Power][pick(&[0, 0, 0, 1])];
    // Most seeds have an order of their own; in some the tasks run as a plain executor would have them.
    if pick(&[0, 0, 0, 0, 0, 0, 0, 1]) == 1 {
        swarm.policy = Policy::Fifo;
    }
    let placement = [Placement::Together, Placement::Apart][pick(&[0, 0, 1])];
    for team in &mut swarm.teams {
        team.placement = placement;
        team.limits.inputs_max = inputs;
        team.limits.steps_in_flight_max = in_flight;
        team.limits.foreign_events_max = foreign;
        team.limits.read_ahead_inputs_max = ahead;
    }
    if swarm.level == Level::Power
        && let FaultPlan::Drawn(classes) = &mut swarm.plan
    {
        // After a failed flush level `power` is not promised again in the same process, and every team says so and
        // stops: then an operator is needed, whom these runs do not have.
        classes.retain(|class| !matches!(class, FaultClass::CommitLost | FaultClass::CommitUnknown));
    }
    swarm
}

/// For people: what was drawn.
pub(super) fn told(swarm: &Swarm) -> String {
    let mut text = String::new();
    if let Some(team) = swarm.teams.first().filter(|_| swarm.varied) {
        let limits = &team.limits;
        // A string takes everything.
        let _ = write!(
            text,
            "drawn: inputs_max {}, steps_in_flight_max {}, foreign_events_max {}, read_ahead_inputs_max {}, placement {:?}, ",
            limits.inputs_max,
            limits.steps_in_flight_max,
            limits.foreign_events_max,
            limits.read_ahead_inputs_max,
            team.placement
        );
    }
    text
}
