//! Order without gap or repeat.

use std::{collections::VecDeque, future::Future, task::Context};

use atra_bus::{BusOptions, Interest, Seq, Subscription};
use futures::{FutureExt, task::noop_waker};

use crate::support::{Draw, Fixture, interest, interest_except, read_all, take_all};

const TOPICS: [&str; 5] = ["a", "a.b", "a.c", "b.c", "d"];
const SOURCES: [&str; 2] = ["x", "y"];

fn random_events(draw: &mut Draw, events_max: usize) -> Vec<(&'static str, &'static str)> {
    (0..=draw.below(events_max)).map(|_| (TOPICS[draw.below(5)], SOURCES[draw.below(2)])).collect()
}

fn interests() -> Vec<Interest> {
    vec![
        interest(&["a"]),
        interest(&[">"]),
        interest(&["a.*", "d"]),
        interest_except(&[">"], &["x"]),
        interest_except(&["a.b", "a.>", "b.*"], &["y"]),
        interest(&["nothing.of.this"]),
        interest(&["d"]),
    ]
}

/// A reader of the single-threaded model, and what it has seen.
struct Reader {
    subscription: Subscription,
    interest: Interest,
    after: u64,
    seen: Vec<u64>,
    cursor: u64,
}

impl Reader {
    /// Polls once in a random way and drops the future: cancelling must lose nothing.
    fn read_some(&mut self, draw: &mut Draw) {
        let mut taken = VecDeque::new();
        match draw.below(4) {
            0 => {
                for _ in 0..draw.below(6) {
                    if let Some(Some(event)) = self.subscription.next().now_or_never() {
                        self.seen.push(event.unwrap().seq.get());
                    }
                }
            }
            1 => {
                let _ = self.subscription.ready().now_or_never();
                self.subscription.take_ready(&mut taken, 1 + draw.below(9));
            }
            2 => {
                self.subscription.take_ready(&mut taken, 1 + draw.below(3));
            }
            _ => {
                let waker = noop_waker();
                let mut future = Box::pin(self.subscription.ready());
                for _ in 0..draw.below(5) {
                    if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                        break;
                    }
                }
            }
        }
        self.seen.extend(taken.iter().map(|event| event.seq.get()));
    }

    /// Reads the closed stream to its end.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            match self.subscription.next().now_or_never() {
                Some(Some(event)) => self.seen.push(event.unwrap().seq.get()),
                Some(None) => return,
                // The journal yields; the read goes on at the next call.
                None => {}
            }
        }
        panic!("the closed stream does not end");
    }

    /// Everything wanted up to the cursor was handed out, nothing else above it, and it never goes back.
    fn check(&mut self, fixture: &Fixture, seed: u64) {
        let wanted = fixture.wanted(&self.interest, self.after);
        assert!(wanted.starts_with(&self.seen), "seed {seed}: {:?} is no beginning of {wanted:?}", self.seen);
        let cursor = self.subscription.cursor().get();
        let handed_out = wanted.iter().take_while(|seq| **seq <= cursor).count();
        assert_eq!(handed_out, self.seen.len(), "seed {seed}: cursor {cursor} after {:?} of {wanted:?}", self.seen);
        assert!(cursor >= self.cursor, "seed {seed}: cursor went back from {} to {cursor}", self.cursor);
        assert!(cursor <= fixture.bus.released().get().max(self.after));
        self.cursor = cursor;
    }
}

/// Random batches, small queues, random reading, late subscribers: after every single action each reader
/// has seen a beginning of what it wants, and in the end all of it.
#[test]
fn readers_see_what_they_want_in_order_without_gap_or_repeat_whatever_the_interleaving() {
    let mut lagged = 0;
    for seed in 0..400 {
        let mut draw = Draw::new(seed);
        let mut fixture = Fixture::with(1 + draw.below(12), draw.below(4) as u64, 1 + draw.below(6));
        let mut readers: Vec<Reader> = Vec::new();
        let all = interests();
        for _ in 0..120 {
            match draw.below(10) {
                0..=2 => {
                    let events_max = [1, 1, 4, 20][draw.below(4)];
                    fixture.release(&random_events(&mut draw, events_max));
                }
                3 if readers.len() < 6 => {
                    let interest = all[draw.below(all.len())].clone();
                    let after = draw.below(fixture.bus.released().get() as usize + 4) as u64;
                    let subscription = fixture.bus.subscribe(interest.clone(), Seq(after));
                    readers.push(Reader { subscription, interest, after, seen: Vec::new(), cursor: after });
                }
                4 if draw.below(8) == 0 && !readers.is_empty() => {
                    readers.swap_remove(draw.below(readers.len()));
                }
                _ if !readers.is_empty() => {
                    let n = readers.len();
                    readers[draw.below(n)].read_some(&mut draw);
                }
                _ => {}
            }
            readers.iter_mut().for_each(|reader| reader.check(&fixture, seed));
        }
        fixture.bus.close();
        for reader in &mut readers {
            lagged += reader.subscription.lagged();
            reader.finish();
            reader.check(&fixture, seed);
            assert_eq!(reader.seen, fixture.wanted(&reader.interest, reader.after), "seed {seed}");
        }
    }
    assert!(lagged > 500, "only {lagged} lags: the test does not test");
}

/// The same with real tasks: a releaser and readers of both kinds race on several threads.
#[test]
fn racing_readers_on_several_threads_see_everything_once_and_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    let mut lagged = 0;
    for seed in 0..40 {
        let mut draw = Draw::new(seed);
        let mut fixture = Fixture::with(1 + draw.below(300), 2, 1 + draw.below(50));
        let mut readers = Vec::new();
        for interest in interests() {
            for by_batch in [false, true] {
                let mut subscription = fixture.bus.subscribe(interest.clone(), Seq::ZERO);
                let max = 1 + draw.below(20);
                let reading = runtime.spawn(async move {
                    let seen = if by_batch {
                        take_all(&mut subscription, max).await
                    } else {
                        read_all(&mut subscription).await
                    };
                    (seen, subscription.lagged(), subscription.cursor())
                });
                readers.push((interest.clone(), reading));
            }
        }
        for round in 0..300 {
            let events_max = [1, 1, 4, 60][draw.below(4)];
            fixture.release(&random_events(&mut draw, events_max));
            if round % 8 == 0 {
                std::thread::yield_now();
            }
        }
        fixture.bus.close();
        for (interest, reading) in readers {
            let (seen, n, cursor) = runtime.block_on(reading).unwrap();
            assert_eq!(seen, fixture.wanted(&interest, 0), "seed {seed}, {interest:?}");
            assert_eq!(cursor, fixture.bus.released());
            lagged += n;
        }
    }
    assert!(lagged > 100, "only {lagged} lags: the test does not test");
}

/// `released` is raised before the queues are filled, and with thousands of subscribers ahead in the line
/// that takes a while. A reader that rejoins meanwhile has read the batch from the journal already.
#[test]
fn a_reader_that_rejoins_while_a_batch_is_being_handed_out_gets_it_once() {
    let mut fixture = Fixture::with(1, 0, 4);
    let ahead: Vec<Subscription> = (0..3_000).map(|_| fixture.bus.subscribe(interest(&["a"]), Seq::ZERO)).collect();
    let mut last = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (runtime.block_on(read_all(&mut last)), last.lagged())
    });
    // Two at a time never fit into a queue of one.
    (0..1_000).for_each(|_| fixture.release(&[("a", "x"); 2]));
    fixture.bus.close();
    let (seen, lagged) = reader.join().unwrap();
    assert_eq!(seen, (1..=2_000).collect::<Vec<u64>>());
    assert!(lagged > 0, "it never lagged: the test does not test");
    drop(ahead);
}

#[tokio::test]
async fn the_publishers_left_out_are_left_out_live_and_from_the_journal() {
    let mut fixture = Fixture::new(8);
    fixture.release(&[("a", "x"), ("a", "y"), ("a", "x")]);
    let mut late = fixture.bus.subscribe(interest_except(&["a"], &["x"]), Seq::ZERO);
    let mut live = fixture.bus.subscribe(interest_except(&["a"], &["x"]), Seq(3));

    fixture.release(&[("a", "x")]);
    fixture.release(&[("a", "y"), ("a", "x"), ("a", "y")]);
    fixture.bus.close();

    assert_eq!(read_all(&mut late).await, [2, 5, 7]);
    assert_eq!(read_all(&mut live).await, [5, 7]);
    assert!(fixture.reads() > 0 && live.lagged() == 0);
}

#[tokio::test]
async fn a_late_subscriber_starts_from_the_journal_and_goes_on_live() {
    let mut fixture = Fixture::new(64);
    (0..50).for_each(|_| fixture.release(&[("a", "x")]));
    let mut late = fixture.bus.subscribe(interest(&["a"]), Seq(10));

    for expected in 11..=50 {
        assert_eq!(late.next().await.unwrap().unwrap().seq, Seq(expected));
    }
    let reads = fixture.reads();
    (0..50).for_each(|_| fixture.release(&[("a", "x")]));
    for expected in 51..=100 {
        assert_eq!(late.next().await.unwrap().unwrap().seq, Seq(expected));
    }
    assert!(reads > 0);
    assert_eq!(fixture.reads(), reads, "caught up, but it read the journal");
}

/// Otherwise a reader would never leave the journal while somebody keeps publishing.
#[tokio::test]
async fn a_reader_that_is_nearly_there_queues_what_is_released_while_it_reads_the_rest() {
    let mut fixture = Fixture::with(64, 3, 4);
    (0..10).for_each(|_| fixture.release(&[("a", "x")]));
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    assert_eq!(subscription.next().await.unwrap().unwrap().seq, Seq(1));
    (0..10).for_each(|_| fixture.release(&[("a", "x")]));
    fixture.bus.close();
    assert_eq!(read_all(&mut subscription).await, (2..=20).collect::<Vec<u64>>());
    assert_eq!((fixture.reads(), subscription.lagged()), (3, 0), "10 events in pages of 4");
}

#[tokio::test]
async fn a_subscriber_from_beyond_what_is_released_gets_nothing_up_to_there() {
    let mut fixture = Fixture::new(8);
    let mut ahead = fixture.bus.subscribe(interest(&["a"]), Seq(3));
    fixture.release(&[("a", "x")]);
    fixture.release(&[("a", "x"), ("a", "x"), ("a", "x"), ("a", "x")]);
    fixture.bus.close();
    assert_eq!(read_all(&mut ahead).await, [4, 5]);
}

/// A batch larger than the queue can never be queued; its reader must still be woken and served.
#[tokio::test(start_paused = true)]
async fn a_batch_above_the_limit_comes_from_the_journal_and_one_at_the_limit_does_not() {
    let mut fixture = Fixture::with(4, 0, 100);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    fixture.release(&[("a", "x"); 4]);
    assert_eq!(subscription.take_ready(&mut VecDeque::new(), 9), 4);
    assert_eq!((subscription.lagged(), fixture.reads()), (0, 0));

    fixture.release(&[("a", "x"); 5]);
    assert_eq!(subscription.take_ready(&mut VecDeque::new(), 9), 0);
    assert!(subscription.ready().await);
    assert_eq!(subscription.take_ready(&mut VecDeque::new(), 9), 5);
    assert_eq!((subscription.lagged(), fixture.reads()), (1, 1));

    fixture.release(&[("a", "x"); 4]);
    assert!(subscription.ready().await);
    assert_eq!(fixture.reads(), 1, "rejoined, but it read the journal");
}

#[tokio::test]
async fn of_a_thousand_subscribers_with_a_topic_each_only_those_who_want_it_are_served() {
    let mut fixture = Fixture::new(64);
    let names: Vec<String> = (0..1_000).map(|n| format!("t.{n}")).collect();
    let mut all: Vec<Subscription> =
        names.iter().map(|name| fixture.bus.subscribe(interest(&[name]), Seq::ZERO)).collect();
    let mut everything = fixture.bus.subscribe(interest(&["t.*"]), Seq::ZERO);
    let mut draw = Draw::new(1);
    let mut expected = vec![Vec::new(); 1_000];
    for seq in 1..=64 {
        let n = draw.below(1_000);
        expected[n].push(seq);
        fixture.release(&[(&names[n], "x")]);
    }
    let mixed: Vec<usize> = (0..40).map(|_| draw.below(1_000)).collect();
    let batch: Vec<(&str, &str)> = mixed.iter().map(|n| (names[*n].as_str(), "x")).collect();
    assert_eq!(everything.take_ready(&mut VecDeque::new(), 100), 64);
    fixture.release(&batch);
    (65..).zip(mixed).for_each(|(seq, n)| expected[n].push(seq));

    assert_eq!(everything.take_ready(&mut VecDeque::new(), 100), 40);
    for (subscription, expected) in all.iter_mut().zip(expected) {
        let mut taken = VecDeque::new();
        subscription.take_ready(&mut taken, 100);
        assert_eq!(taken.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), expected);
    }
    assert_eq!(fixture.reads(), 0);
}

/// Ten thousand subscribers that never read once held 160 KB each.
#[tokio::test]
async fn all_queues_together_are_bounded_and_whoever_holds_less_reads_the_rest_from_the_journal() {
    let options = BusOptions { queue_events_max: 128, queues_events_max: 512, ..BusOptions::default() };
    let mut fixture = Fixture::on(options, 0);
    let wanted = interest(&["a"]);
    let mut readers: Vec<Subscription> = Vec::new();
    for n in 0..64 {
        readers.push(fixture.bus.subscribe(wanted.clone(), fixture.bus.released()));
        // Batches of one event and of several: single entries and runs.
        let events = vec![("a", "x"); 1 + 2 * (n % 2)];
        fixture.release(&events);
        let queued: usize = fixture.bus.subscribers().iter().map(|status| status.queued).sum();
        assert!(queued <= 1_024, "{queued} events wait in {} queues", n + 1);
    }
    assert!(fixture.bus.subscribers().iter().all(|status| status.queued <= 16));
    fixture.bus.close();
    let all = fixture.wanted(&wanted, 0);
    for (n, reader) in readers.iter_mut().enumerate() {
        let seqs = read_all(reader).await;
        let first = *seqs.first().unwrap();
        assert_eq!(seqs, fixture.wanted(&wanted, first - 1), "reader {n}");
        assert_eq!(seqs.last(), all.last(), "reader {n}");
    }
}

#[tokio::test]
async fn queues_hold_more_again_when_subscribers_have_gone() {
    let options = BusOptions { queue_events_max: 128, queues_events_max: 512, ..BusOptions::default() };
    let mut fixture = Fixture::on(options, 0);
    let mut reader = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let others: Vec<Subscription> = (0..40).map(|_| fixture.bus.subscribe(interest(&["b"]), Seq::ZERO)).collect();
    drop(others);
    for _ in 0..100 {
        fixture.release(&[("a", "x")]);
    }
    assert_eq!(reader.lagged(), 0);
    fixture.bus.close();
    assert_eq!(read_all(&mut reader).await.len(), 100);
}
