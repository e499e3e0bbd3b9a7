//! The check of a topology: what it refuses, what it allows, and how many steps it takes.

use super::*;
use crate::{Agent, AgentError, Context};

struct Idle(AgentSpec);

#[async_trait::async_trait]
impl Agent for Idle {
    fn spec(&self) -> AgentSpec {
        self.0.clone()
    }

    async fn handle(&mut self, _: &atra_bus::Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
}

/// A team of one agent.
fn team(name: &str, change: impl FnOnce(AgentSpec) -> AgentSpec) -> Team {
    let spec = change(AgentSpec::new(name));
    Team::of(move || Idle(spec.clone()))
}

fn text(warnings: &[TopologyWarning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}

/// Every team publishes to the next one, wants something that nobody publishes, hears one topic that all publish, and
/// owns memory. Compared pair by pair, 20,000 teams took minutes.
#[test]
fn many_teams_are_checked_in_a_few_steps_each() {
    let n = 20_000;
    let teams: Vec<Team> = (0..n)
        .map(|i| {
            team(&format!("t{i}"), |spec| {
                spec.subscribes(&format!("job.{i}.*"))
                    .subscribes(&format!("never.{i}"))
                    .subscribes("news.all")
                    .publishes_on(&format!("job.{}.done", (i + 1) % n), true)
                    .publishes_on("news.all", true)
                    .owns(&format!("of.{i}."))
            })
        })
        .collect();
    owners(&teams).expect("no owner overlaps");
    passing(&teams).expect("nothing passing");
    let (mut budget, mut warnings) = (STEPS_MAX, Vec::new());
    orphans(&teams, &mut budget, &mut warnings).expect("within the budget");
    assert_eq!(warnings.len(), n, "each waits for one topic that nobody publishes");
    let loops = loops::loops(&teams, &mut budget).expect("within the budget");
    let names: Vec<&str> = loops.iter().flatten().map(Name::as_str).collect();
    assert_eq!((loops.len(), names[0]), (1, "t0"), "all feed each other: the shortest loop of the first is named");
    assert_eq!(loops[0].len(), 2);
    let n_steps = STEPS_MAX - budget;
    assert!(n_steps <= 40 * n, "{n_steps} steps for {n} teams");
}

/// Drawn teams, against the definition: a team is in a loop if it reaches itself over another team.
#[test]
fn loops_are_those_that_following_every_pair_of_teams_finds() {
    let mut bits = 3_u64;
    let mut draw = move |n: usize| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (bits >> 33) as usize % n
    };
    let filters = ["a.b", "a.c", "a.*", "b.>", "b.c", "c", "*.c", "d.e"];
    for _ in 0..500 {
        let n = draw(5) + 2;
        let teams: Vec<Team> = (0..n)
            .map(|i| {
                let spec = |mut spec: AgentSpec| {
                    for _ in 0..draw(3) {
                        spec = spec.subscribes(filters[draw(filters.len())]);
                    }
                    for _ in 0..draw(3) {
                        spec = spec.publishes_on(filters[draw(filters.len())], draw(4) > 0);
                    }
                    spec
                };
                team(&format!("t{i}"), spec)
            })
            .collect();
        let feeds = |from: &Team, to: &Team| {
            let mut durable = from.specs().flat_map(|spec| &spec.publishes).filter(|published| published.durable);
            let wants =
                |p: &crate::Publishes| to.specs().any(|spec| spec.subscribes.iter().any(|f| p.filter.overlaps(f)));
            from.name() != to.name() && durable.any(wants)
        };
        let mut reach: Vec<Vec<bool>> =
            teams.iter().map(|from| teams.iter().map(|to| feeds(from, to)).collect()).collect();
        for k in 0..n {
            for i in 0..n {
                for j in 0..n {
                    reach[i][j] |= reach[i][k] && reach[k][j];
                }
            }
        }
        let loops = loops::loops(&teams, &mut STEPS_MAX.clone()).expect("within the budget");
        let named: BTreeSet<&Name> = loops.iter().flatten().collect();
        for (i, team) in teams.iter().enumerate() {
            let in_group = (0..n).any(|j| reach[i][j] && reach[j][i] && named.contains(teams[j].name()));
            assert_eq!(reach[i][i], in_group, "{} of {teams:?}: {loops:?}", team.name());
        }
        for path in &loops {
            let of = |name: &Name| teams.iter().find(|team| team.name() == name).expect("a team");
            let next = path.iter().cycle().skip(1);
            assert!(path.iter().zip(next).all(|(from, to)| feeds(of(from), of(to))), "{path:?} is a loop");
        }
    }
}

#[test]
fn filters_that_all_overlap_are_given_up_on_and_that_is_told() {
    let n = 6_000;
    let wide = |i: usize| {
        team(&format!("t{i}"), |spec| spec.subscribes(&format!("*.x{i}")).publishes_on(&format!("y{i}.z{i}"), true))
    };
    let teams: Vec<Team> = (0..n).map(wide).collect();
    let warnings = check(&teams).expect("no error");
    assert!(text(&warnings).last().is_some_and(|last| last.contains("not all were checked")), "{:?}", warnings.last());
}

#[test]
fn prefixes_within_each_other_have_one_owner() {
    let nested = |spec: AgentSpec| (1..200).fold(spec, |spec, n| spec.owns(&"k".repeat(n)));
    assert!(owners(&[team("a", nested), team("b", |spec| spec.owns("j").owns("l"))]).is_ok());
    let refused = owners(&[team("a", nested), team("b", |spec| spec.owns("kkkk."))]).unwrap_err();
    assert!(refused.to_string().contains("each key has one owner"), "{refused}");
    let same = owners(&[team("a", |spec| spec.owns("k")), team("b", |spec| spec.owns("k"))]);
    assert!(same.is_err());
}

#[test]
fn a_passing_topic_may_have_publishers_in_several_teams() {
    let passes = |name: &str| team(name, |spec| spec.publishes_on("x.y", false));
    let wants = |name: &str| team(name, |spec| spec.subscribes("x.y"));
    let both = team("c", |spec| spec.publishes_on("x.y", false).subscribes("x.y"));
    assert!(passing(&[both.clone(), wants("w")]).is_err());
    assert!(passing(std::slice::from_ref(&both)).is_ok(), "its own topic does not leave the team");
    let refused = passing(&[both, passes("p")]).unwrap_err();
    assert!(refused.to_string().starts_with("agent c wants x.y, which agent p"), "{refused}");
    assert!(passing(&[passes("p"), passes("q")]).is_ok());
}
