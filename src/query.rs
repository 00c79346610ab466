//! `boomfs query`: asks the metadata an Overlog query, once or for as long as wanted.

use crate::cli::Find;
use crate::signals::Signals;
use crate::{cluster, output};
use anyhow::Context;
use boomfs_client::{Change, Client};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;

/// Arguments of `boomfs query`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  boomfs query '? datanode(Node, ..);'
  boomfs query '? top(top<10, [Size, Path]>) :- inode(I, Kind: \"file\", Size: Size, ..), fqpath(I, Path);'")]
pub struct Args {
    /// The query: `? relation(A, B);` or `? head(A, B) :- body;`
    #[arg(value_name = "QUERY")]
    query: String,
    #[command(flatten)]
    find: Find,
    /// Print a JSON object a row
    #[arg(long)]
    json: bool,
    /// Ask any NameNode, also one that does not lead and may not know the latest
    #[arg(long)]
    stale: bool,
    /// Stay, and print what changes
    #[arg(long)]
    watch: bool,
    /// Print at most this many rows
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        conflicts_with = "watch"
    )]
    limit: u64,
}

/// Asks.
///
/// # Errors
/// The cluster cannot be reached, or the query is refused.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = cluster::observe(&args.find, "query", args.stale).await?;
    let outcome = if args.watch {
        watch(&client, &args).await
    } else {
        once(&client, &args).await
    };
    let closed = client.close().await;
    outcome?;
    Ok(closed?)
}

async fn once(client: &Client, args: &Args) -> anyhow::Result<()> {
    let answer = client.query(&args.query, args.limit).await?;
    let mut rows = answer
        .rows
        .iter()
        .map(|row| cells(row))
        .collect::<anyhow::Result<Vec<_>>>()?;
    rows.sort_by(|a, b| compare(a, b));
    if args.json {
        return rows
            .iter()
            .try_for_each(|row| output::json(&object(&answer.columns, row)));
    }
    let mut table = output::table(&answer.columns);
    for row in &rows {
        table.add_row(row.iter().map(shown));
    }
    output::line(&table.to_string())?;
    let count = rows.len();
    let more = if count as u64 >= args.limit {
        " (there may be more: see --limit)"
    } else {
        ""
    };
    // Scripts read the rows; the count is for people.
    if std::io::stdout().is_terminal() {
        output::line(&format!(
            "{count} row{}{more}",
            if count == 1 { "" } else { "s" }
        ))?;
    }
    Ok(())
}

async fn watch(client: &Client, args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let mut watch = client.watch(&args.query).await?;
    loop {
        let change = tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            change = watch.next() => change,
        };
        let Some(change) = change else { break };
        if args.json {
            print_json(&change)?
        } else {
            print_text(&change)?
        }
    }
    match watch.failure() {
        Some(why) => Err(why.clone().into()),
        None => Ok(()),
    }
}

fn print_json(change: &Change) -> anyhow::Result<()> {
    if change.restarted {
        output::json(&json!({"change": "start", "run": change.run, "columns": change.columns}))?;
    }
    for (what, rows) in [("removed", &change.removed), ("added", &change.added)] {
        for row in rows {
            let row = object(&change.columns, &cells(row)?);
            output::json(&json!({"change": what, "run": change.run, "row": row}))?;
        }
    }
    Ok(())
}

fn print_text(change: &Change) -> anyhow::Result<()> {
    if change.restarted {
        output::line(&format!("= {}", change.columns.join(", ")))?;
    }
    for (sign, rows) in [("-", &change.removed), ("+", &change.added)] {
        for row in rows {
            let row: Vec<String> = cells(row)?.iter().map(shown).collect();
            output::line(&format!("{sign} {}", row.join(", ")))?;
        }
    }
    Ok(())
}

/// The values of a row.
fn cells(row: &str) -> anyhow::Result<Vec<Value>> {
    serde_json::from_str(row)
        .with_context(|| format!("the NameNode sent a row that is no JSON array: {row}"))
}

/// A row with the names of its columns; columns of one name get numbers.
fn object(columns: &[String], row: &[Value]) -> Value {
    let mut object = Map::new();
    for (at, value) in row.iter().enumerate() {
        let name = columns.get(at).cloned().unwrap_or_default();
        let taken = name.is_empty() || object.contains_key(&name);
        object.insert(
            if taken { format!("{name}_{at}") } else { name },
            value.clone(),
        );
    }
    Value::Object(object)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => output::plain(text),
        other => output::plain(&other.to_string()),
    }
}

/// Numbers by value, everything else as text.
fn compare(a: &[Value], b: &[Value]) -> std::cmp::Ordering {
    let pairs = a
        .iter()
        .zip(b)
        .map(|(a, b)| match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => shown(a).cmp(&shown(b)),
            },
        });
    pairs.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_objects() {
        let columns = ["A".to_owned(), "B".to_owned(), "A".to_owned()];
        let row = cells(r#"[1,"x",[2,3]]"#).unwrap();
        assert_eq!(
            object(&columns, &row).to_string(),
            r#"{"A":1,"A_2":[2,3],"B":"x"}"#
        );
    }

    #[test]
    fn rows_are_in_the_order_of_their_values() {
        let mut rows = [
            cells(r#"[10,"b"]"#).unwrap(),
            cells(r#"[9,"z"]"#).unwrap(),
            cells(r#"[10,"a"]"#).unwrap(),
        ];
        rows.sort_by(|a, b| compare(a, b));
        let shown: Vec<String> = rows
            .iter()
            .map(|row| Value::from(row.clone()).to_string())
            .collect();
        assert_eq!(shown, [r#"[9,"z"]"#, r#"[10,"a"]"#, r#"[10,"b"]"#]);
    }
}
