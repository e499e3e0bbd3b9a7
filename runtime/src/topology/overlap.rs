//! Which filters overlap a given one, without comparing it with each.
//!
//! Filters are held in a tree of tokens. A look-up follows the tokens of the given filter, so its cost depends on the
//! matches and not on the number of filters. Filters that begin with wildcards can still fan out, so all look-ups share
//! one budget of steps.

use std::collections::BTreeMap;

use atra_bus::Filter;

/// The budget of steps is used up: the answer is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverBudget;

/// Distinct filters, numbered in the order in which they were added.
#[derive(Default)]
pub(super) struct Filters<'a> {
    numbers: BTreeMap<&'a str, usize>,
    nodes: Vec<Node<'a>>,
}

#[derive(Default)]
struct Node<'a> {
    /// By token; `*` is one.
    children: BTreeMap<&'a str, usize>,
    /// The filter that ends here.
    ends: Option<usize>,
    /// The filter that ends here with `>`.
    tail: Option<usize>,
}

impl<'a> Filters<'a> {
    /// Adds a filter and gives its number; an equal one has the same.
    pub(super) fn add(&mut self, filter: &'a Filter) -> usize {
        let text = filter.as_str();
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len();
        self.numbers.insert(text, number);
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for token in text.split('.') {
            if token == ">" {
                self.nodes[at].tail = Some(number);
                return number;
            }
            at = match self.nodes[at].children.get(token) {
                Some(next) => *next,
                None => {
                    self.nodes.push(Node::default());
                    let next = self.nodes.len() - 1;
                    self.nodes[at].children.insert(token, next);
                    next
                }
            };
        }
        self.nodes[at].ends = Some(number);
        number
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers of the filters that overlap `filter`, each once; at most `most` of them. Takes its steps from
    /// `budget`.
    pub(super) fn overlapping(
        &self,
        filter: &Filter,
        most: usize,
        budget: &mut usize,
    ) -> Result<Vec<usize>, OverBudget> {
        let mut found = Vec::new();
        let tokens: Vec<&str> = filter.as_str().split('.').collect();
        // Node and the number of tokens that were followed to it. Beyond the last token: everything below is found.
        let mut open = vec![(0, 0)];
        if self.nodes.is_empty() {
            return Ok(found);
        }
        while let Some((at, n_followed)) = open.pop() {
            *budget = budget.checked_sub(1).ok_or(OverBudget)?;
            if found.len() >= most {
                break;
            }
            let node = &self.nodes[at];
            let rest = &tokens[n_followed.min(tokens.len())..];
            let is_below = n_followed > tokens.len();
            match rest.first() {
                None if is_below => {
                    found.extend(node.ends);
                    found.extend(node.tail);
                    open.extend(node.children.values().map(|child| (*child, n_followed)));
                }
                None => found.extend(node.ends),
                // Everything below the node has at least one more token, as `>` requires.
                Some(&">") => {
                    found.extend(node.tail);
                    open.extend(node.children.values().map(|child| (*child, tokens.len() + 1)));
                }
                Some(&"*") => {
                    found.extend(node.tail);
                    open.extend(node.children.values().map(|child| (*child, n_followed + 1)));
                }
                Some(token) => {
                    found.extend(node.tail);
                    let next = [node.children.get(token), node.children.get("*")];
                    open.extend(next.into_iter().flatten().map(|child| (*child, n_followed + 1)));
                }
            }
        }
        found.truncate(most);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_answers_as_comparing_with_every_filter_would() {
        let tokens = ["a", "b", "*"];
        let mut texts = vec![">".to_owned()];
        for a in tokens {
            texts.extend([a.to_owned(), format!("{a}.>")]);
            for b in tokens {
                texts.extend([format!("{a}.{b}"), format!("{a}.{b}.>")]);
                texts.extend(tokens.iter().map(|c| format!("{a}.{b}.{c}")));
            }
        }
        let all: Vec<Filter> = texts.iter().map(|text| Filter::new(text).expect("a filter")).collect();
        let mut filters = Filters::default();
        for (number, filter) in all.iter().enumerate() {
            assert_eq!((filters.add(filter), filters.add(filter)), (number, number));
        }
        for filter in &all {
            let mut found = filters.overlapping(filter, usize::MAX, &mut 10_000).expect("within the budget");
            found.sort_unstable();
            let expected: Vec<usize> = (0..all.len()).filter(|number| all[*number].overlaps(filter)).collect();
            assert_eq!(found, expected, "{filter}");
            assert_eq!(filters.overlapping(filter, 1, &mut 10_000).map(|found| found.len()), Ok(1));
        }
        assert_eq!(filters.overlapping(&Filter::all(), usize::MAX, &mut 5), Err(OverBudget));
        assert_eq!(Filters::default().overlapping(&Filter::all(), 1, &mut 5), Ok(Vec::new()));
    }
}
