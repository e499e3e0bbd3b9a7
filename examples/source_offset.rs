//! A source that is stopped and started again, on a real SQLite file: nothing is lost, nothing repeated.
//!
//! What to notice:
//! - Each product carries its offset; the step that settles the product stores the offset with everything
//!   that was decided on it, so the two can never disagree.
//! - At the next start the source is asked to go on from the stored offset.
//! - The sum is the agent's own state: `save` writes it into the same step, `start` brings it back.

use std::{error::Error, fs, path::PathBuf, time::Duration};

use atra::{bus::Interest, prelude::*};
use futures::stream;

const NUMBER: Topic = Topic::literal("file.number");
const SUM: Topic = Topic::literal("file.sum");

/// Reads a file of numbers, one a line, and adds them up. Its offset is the number of lines read.
struct Adder {
    path: PathBuf,
    sum: u64,
}

#[atra::async_trait]
impl Agent for Adder {
    fn spec(&self) -> AgentSpec {
        let spec = AgentSpec::new("adder").source().subscribes("file.number");
        spec.publishes_on("file.number", true).publishes_on("file.sum", true)
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.sum = state.get("sum")?.unwrap_or(0);
        Ok(())
    }

    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let done: usize = offsets.get("lines").and_then(|offset| offset.parse().ok()).unwrap_or(0);
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let items = lines.into_iter().enumerate().skip(done).map(|(line, text)| {
            let event = Draft::new(NUMBER, text.parse::<u64>()?).at(Timestamp(line as i64));
            Ok(SourceItem::Input { event, partition: "lines".into(), offset: (line + 1).to_string() })
        });
        // A stream that closes without `End` has failed.
        Some(Box::pin(stream::iter(items.chain([Ok(SourceItem::End)]))))
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.sum += *event.get::<u64>()?;
        cx.publish(Draft::new(SUM, self.sum))?;
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("sum", &self.sum)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (numbers, db) = (folder.path().join("numbers.txt"), folder.path().join("atra.db"));
    let mut sums = Vec::new();
    for text in ["1\n2\n3\n", "1\n2\n3\n10\n20\n"] {
        fs::write(&numbers, text)?;
        let store = SqliteStore::open(SqliteOptions::new(&db)).await?;
        let path = numbers.clone();
        let team = Team::of(move || Adder { path: path.clone(), sum: 0 }).clock(Clock::Events);
        let runtime = RuntimeBuilder::new(store).team(team).start().await?;
        runtime.idle().await;
        let read = runtime.reader().topic_counts().await?.of("file.number");
        let last = runtime.reader().journal_tail(&Interest::in_topics(vec![SUM.into()]), 1).await?;
        sums.push((read, *last[0].event.get::<u64>()?));
        runtime.stop(Duration::from_secs(10)).await?;
    }
    println!("(numbers in the journal, sum) after each run: {sums:?}");
    // The second run read two lines, not five.
    assert_eq!(sums, [(3, 6), (5, 36)]);
    Ok(())
}
