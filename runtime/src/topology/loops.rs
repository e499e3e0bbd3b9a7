//! Finds teams that trigger each other in a loop.
//!
//! The graph has a node for each team, for each distinct filter that is published on and for each that is subscribed to.
//! So its size is that of the specs and their overlaps. Direct edges between teams would be quadratic where thousands
//! of teams share one topic.

use std::collections::{BTreeSet, VecDeque};

use atra_bus::Name;

use super::overlap::{Filters, OverBudget};
use crate::team::Team;

/// A node that was not reached yet.
const NEW: usize = usize::MAX;

struct Graph {
    n_teams: usize,
    /// The node of the first subscribed filter.
    first_subscribed: usize,
    /// The subscribed filters of each team, by their numbers.
    wants: Vec<BTreeSet<usize>>,
    /// Successors of each node: teams first, then published filters, then subscribed ones.
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn new(teams: &[Team], budget: &mut usize) -> Result<Self, OverBudget> {
        let (mut published, mut subscribed) = (Filters::default(), Filters::default());
        let mut filters = Vec::new();
        let mut feeds: Vec<BTreeSet<usize>> = Vec::new();
        let mut wants: Vec<BTreeSet<usize>> = Vec::new();
        for team in teams {
            let durable = team.specs().flat_map(|spec| &spec.publishes).filter(|published| published.durable);
            feeds.push(
                durable
                    .map(|from| {
                        let number = published.add(&from.filter);
                        if number == filters.len() {
                            filters.push(&from.filter);
                        }
                        number
                    })
                    .collect(),
            );
            wants.push(team.specs().flat_map(|spec| &spec.subscribes).map(|filter| subscribed.add(filter)).collect());
        }
        let first_published = teams.len();
        let first_subscribed = first_published + published.len();
        let mut edges = vec![Vec::new(); first_subscribed + subscribed.len()];
        for (team, feeds) in feeds.iter().enumerate() {
            edges[team].extend(feeds.iter().map(|number| first_published + number));
        }
        for (number, filter) in filters.into_iter().enumerate() {
            let found = subscribed.overlapping(filter, usize::MAX, budget)?;
            edges[first_published + number].extend(found.iter().map(|wanted| first_subscribed + wanted));
        }
        for (team, wants) in wants.iter().enumerate() {
            wants.iter().for_each(|number| edges[first_subscribed + number].push(team));
        }
        Ok(Self { n_teams: teams.len(), first_subscribed, wants, edges })
    }

    /// The strongly connected component of each node (Tarjan's algorithm, with a stack of its own).
    fn components(&self) -> Vec<usize> {
        let n = self.edges.len();
        let (mut order, mut low) = (vec![NEW; n], vec![0; n]);
        let mut component = vec![NEW; n];
        let (mut n_seen, mut n_components) = (0, 0);
        let mut held = Vec::new();
        for root in 0..n {
            // A node and how many of its edges were followed.
            let mut path = if order[root] == NEW { vec![(root, 0)] } else { Vec::new() };
            while let Some((at, n_followed)) = path.pop() {
                if n_followed == 0 {
                    (order[at], low[at]) = (n_seen, n_seen);
                    n_seen += 1;
                    held.push(at);
                } else {
                    let before = self.edges[at][n_followed - 1];
                    if component[before] == NEW {
                        low[at] = low[at].min(low[before]);
                    }
                }
                if let Some(&next) = self.edges[at].get(n_followed) {
                    path.push((at, n_followed + 1));
                    if order[next] == NEW {
                        path.push((next, 0));
                    }
                    continue;
                }
                if low[at] == order[at] {
                    while let Some(node) = held.pop() {
                        component[node] = n_components;
                        if node == at {
                            break;
                        }
                    }
                    n_components += 1;
                }
            }
        }
        component
    }

    /// The shortest way from a team over others of its component back to itself, breadth first. `came_from` is shared by
    /// the look-ups of all components, since none touches another's nodes.
    fn loop_of(&self, start: usize, components: &[usize], came_from: &mut [usize]) -> Option<Vec<usize>> {
        let mut open: VecDeque<usize> = [start].into();
        while let Some(at) = open.pop_front() {
            let is_back = |wanted: &usize| self.wants[start].contains(&(wanted - self.first_subscribed));
            let is_fed = |published: &usize| self.edges[*published].iter().any(is_back);
            if at < self.n_teams && at != start && self.edges[at].iter().any(is_fed) {
                let back = std::iter::successors(Some(at), |node| Some(came_from[*node]));
                let teams = back.take_while(|node| *node != start).filter(|node| *node < self.n_teams);
                let mut path: Vec<usize> = teams.chain([start]).collect();
                path.reverse();
                return Some(path);
            }
            for &next in &self.edges[at] {
                if next != start && came_from[next] == NEW && components[next] == components[start] {
                    came_from[next] = at;
                    open.push_back(next);
                }
            }
        }
        None
    }
}

/// The shortest loop of the first team in each group of teams that feed each other. Takes its steps from `budget`.
pub(super) fn loops(teams: &[Team], budget: &mut usize) -> Result<Vec<Vec<Name>>, OverBudget> {
    let graph = Graph::new(teams, budget)?;
    let components = graph.components();
    let mut n_members = vec![0; graph.edges.len()];
    components[..teams.len()].iter().for_each(|component| n_members[*component] += 1);
    let mut came_from = vec![NEW; graph.edges.len()];
    let mut found = Vec::new();
    for start in 0..teams.len() {
        // Each group once.
        if std::mem::take(&mut n_members[components[start]]) < 2 {
            continue;
        }
        let path = graph.loop_of(start, &components, &mut came_from).unwrap_or_default();
        found.push(path.into_iter().map(|team| teams[team].name().clone()).collect());
    }
    Ok(found)
}
