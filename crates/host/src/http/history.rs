//! `/host/history`, `/vms/{vm}/history` and what is read from the same: what was used over time, and what became of promises.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::{History, HistoryQuery, Invalid, Problem, Receipt, Receipts, ReceiptsQuery, Series, Time};
use axum::extract::{Path, State};
use vmm::machine::MOST_PROCESSORS;

use super::caller::Viewer;
use super::error::Result;
use super::input::Query;
use crate::daemon::Host;
use crate::series::{Bucket, GUEST_SERIES, HOST_SERIES, Kind, LEVELS, PROCESSOR_SERIES, coarser};

/// How many spans there are if nothing is said.
const USUAL: u32 = 600;
/// The most that there can be.
const MOST: u32 = 4000;
/// How long a time is shown if nothing is said, s.
const HOUR: i64 = 3600;
/// The longest span that may be asked for, s.
const LONGEST: u32 = 30 * 86400;
/// How long spans are that nobody has chosen, s: what people count in.
const STEPS: [u32; 19] =
    [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 7 * 86400];

/// What the host has used over time.
#[utoipa::path(get, path = "/host/history", tag = "host", security(("token" = ["viewer"])), params(HistoryQuery), responses(
    (status = 200, description = "What it has used: `cpu_busy` and `cpu_stolen` (by whoever runs this machine as a guest), `memory_used`, `storage_used` (where \
        guests' disks are), `disk_read`, `disk_written`, `net_received`, `net_sent`", body = History),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn of_host(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<HistoryQuery>,
) -> Result<axum::Json<History>> {
    let wanted = Wanted::of(&query, &HOST_SERIES, Time::now())?;
    let series = Arc::clone(&host.series);
    answer(wanted, move |level, first, last| series.of_host(level, first, last)).await
}

/// What a guest has used over time. It is measured while it runs; what was measured stays as long as the guest is there.
#[utoipa::path(get, path = "/vms/{vm}/history", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id"), HistoryQuery), responses(
    (status = 200, description = "What it has used: `cpu_run`, `cpu_ready` and `cpu_wait` (the time that its processors ran, had work but no processor of \
        the host, and had nothing to do), `cpu_limited`, `cpu_memory`, `cpu_io`, `cpu_halted` (what is in `cpu_wait`: kept from running by the limit, waiting for \
        memory, waiting for a disk, nothing to do), `memory` (that its process takes), `disk_read`, `disk_written`, `disk_reads`, `disk_writes`, \
        `net_received`, `net_sent`, `cpu_promised`, `cpu_asked`, `cpu_due`, `cpu_delivered`, `cpu_short` (see `/vms/{vm}/receipts`)", body = History),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn of_guest(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<axum::Json<History>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let wanted = Wanted::of(&query, &GUEST_SERIES, Time::now())?;
    let series = Arc::clone(&host.series);
    answer(wanted, move |level, first, last| series.of_guest(vm.id, level, first, last)).await
}

/// What one of a guest's processors did over time. The series together are always 1.
#[utoipa::path(get, path = "/vms/{vm}/processors/{processor}/history", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id"), ("processor" = String, Path, description = "The processor's number, from 0 on"), HistoryQuery),
    responses(
    (status = 200, description = "The parts of its time: `run`, `ready` (it waited for a processor of the host), `limited` (it had had what its limit allows), \
        `memory` (it waited for memory that is not in the host's), `io` (it had nothing to do until a disk would be ready), `halted` (nothing to do)",
        body = History),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn of_processor(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path((vm, processor)): Path<(String, String)>,
    Query(query): Query<HistoryQuery>,
) -> Result<axum::Json<History>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let number = processor.parse().ok().filter(|number| *number < MOST_PROCESSORS);
    let number = number.ok_or_else(|| {
        let name = &vm.definition.name;
        Problem::not_found(format!("{name} has no processor {processor:?}: they are numbers from 0 on"))
    })?;
    let wanted = Wanted::of(&query, &PROCESSOR_SERIES, Time::now())?;
    let series = Arc::clone(&host.series);
    answer(wanted, move |level, first, last| series.of_processor(vm.id, number, level, first, last)).await
}

/// What became of what a guest was promised of processors: what it asked for, was to have and got. It is kept like all that is measured: each
/// second for an hour, and for longer the worst second of each span.
#[utoipa::path(get, path = "/vms/{vm}/receipts", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id"), ReceiptsQuery), responses(
    (status = 200, description = "What became of it", body = Receipts),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn receipts(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
    Query(query): Query<ReceiptsQuery>,
) -> Result<axum::Json<Receipts>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let ReceiptsQuery { from, to, step, points } = query;
    let query = HistoryQuery { from, to, step, points, series: Some(RECEIPT.join(",")) };
    let wanted = Wanted::of(&query, &GUEST_SERIES, Time::now())?;
    let series = Arc::clone(&host.series);
    let history =
        answer(wanted, move |level, first, last| series.of_guest(vm.id, level, first, last)).await?;
    Ok(axum::Json(receipted(&history.0)))
}

/// The series of a receipt in their order.
const RECEIPT: [&str; 5] = ["cpu_promised", "cpu_asked", "cpu_due", "cpu_delivered", "cpu_short"];

fn receipted(history: &History) -> Receipts {
    let value = |name: &str, span: usize| {
        let series = history.series.iter().find(|series| series.name == name)?;
        // Of a span the second counts in which it was short of most.
        let values = if name == "cpu_short" { &series.max } else { &series.avg };
        values.get(span).copied().flatten()
    };
    let receipt = |span: u32| {
        let values = RECEIPT.map(|name| value(name, span as usize));
        let [Some(promised), Some(asked), Some(due), Some(delivered), Some(short)] = values else {
            return None;
        };
        let time = history.from + Duration::from_secs(u64::from(span) * u64::from(history.step));
        // Shares are said in thousandths of a processor.
        let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
        Some(Receipt::of(time, [promised, asked, due, delivered, short].map(thousandths)))
    };
    let receipts: Vec<_> = (0..history.points).filter_map(receipt).collect();
    Receipts {
        step: history.step,
        kept: receipts.iter().filter(|receipt| receipt.kept).count() as u32,
        worst_short: receipts.iter().map(|receipt| receipt.short).fold(0.0, f64::max),
        receipts,
    }
}

/// What was asked for, as it is looked up.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    level: usize,
    /// How long a span of the answer is, s.
    step: u32,
    /// The numbers of its first and last span.
    first: u32,
    last: u32,
    /// The series and their numbers.
    series: Vec<(usize, Kind)>,
}

impl Wanted {
    fn of(query: &HistoryQuery, known: &[Kind], now: Time) -> Result<Self> {
        let now = now.as_second();
        let to = query.to.map_or(now, |to| to.as_second()).clamp(1, u32::MAX.into());
        let from = query.from.map_or(to - HOUR, |from| from.as_second()).max(0);
        let points = query.points.unwrap_or(USUAL);
        let mut wrong = Vec::new();
        if from >= to {
            wrong.push(Invalid::new("/from", query.from.map(|from| from.to_string()), "a time before `to`"));
        }
        if !(1..=MOST).contains(&points) {
            wrong.push(Invalid::new("/points", points, format!("1 to {MOST} spans")));
        }
        if let Some(step) = query.step.filter(|step| !(1..=LONGEST).contains(step)) {
            wrong.push(Invalid::new("/step", step, format!("1 to {LONGEST} seconds")));
        }
        let series = chosen(query.series.as_deref(), known, &mut wrong);
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong).into());
        }
        let long = to - from;
        let short = u32::try_from((long + i64::from(points) - 1) / i64::from(points)).unwrap_or(LONGEST);
        let usual = STEPS.into_iter().find(|step| *step >= short).unwrap_or(short);
        let (level, step) = level(query.step.unwrap_or(usual), now - from);
        let count = long / i64::from(step);
        if count > MOST.into() {
            let detail = format!("that would be {count} spans: at most {MOST}");
            return Err(Problem::invalid(vec![Invalid::new("/step", query.step, detail)]).into());
        }
        let (first, last) = (from / i64::from(step), (to - 1) / i64::from(step));
        Ok(Self { level, step, first: first as u32, last: last as u32, series })
    }
}

fn chosen(names: Option<&str>, known: &[Kind], wrong: &mut Vec<Invalid>) -> Vec<(usize, Kind)> {
    let all = known.iter().copied().enumerate();
    let Some(names) = names else { return all.collect() };
    let names: Vec<_> = names.split(',').map(str::trim).collect();
    if let Some(name) = names.iter().find(|name| known.iter().all(|kind| kind.name != **name)) {
        let known: Vec<_> = known.iter().map(|kind| kind.name).collect();
        let shown: String = name.chars().take(80).collect();
        wrong.push(Invalid::new("/series", shown, format!("some of {}", known.join(", "))));
    }
    all.filter(|(_, kind)| names.contains(&kind.name)).collect()
}

/// The level at which spans of `step` seconds are looked up that go back `age` seconds, and how long they are there.
fn level(step: u32, age: i64) -> (usize, u32) {
    let kept = |level: usize| i64::from(LEVELS[level].step) * i64::from(LEVELS[level].slots);
    // The longest that fit are the fewest to read; what is older is kept in longer ones only.
    let fits = (0..LEVELS.len()).rev().find(|level| step.is_multiple_of(LEVELS[*level].step)).unwrap_or(0);
    let level = (fits..LEVELS.len()).find(|level| age <= kept(*level)).unwrap_or(LEVELS.len() - 1);
    (level, step.next_multiple_of(LEVELS[level].step))
}

async fn answer(
    wanted: Wanted,
    read: impl FnOnce(usize, u32, u32) -> io::Result<Vec<Bucket>> + Send + 'static,
) -> Result<axum::Json<History>> {
    let parts = wanted.step / LEVELS[wanted.level].step;
    let (first, last) = (wanted.first.saturating_mul(parts), wanted.last.saturating_mul(parts));
    let look = move || read(wanted.level, first, last.saturating_add(parts - 1));
    let found = tokio::task::spawn_blocking(look).await;
    let found = found.map_err(io::Error::other).and_then(|found| found);
    let found =
        found.map_err(|error| Problem::internal(format!("what was measured cannot be read: {error}")))?;
    Ok(axum::Json(shown(&wanted, &coarser(&found, parts))))
}

fn shown(wanted: &Wanted, found: &[Bucket]) -> History {
    let points = wanted.last - wanted.first + 1;
    let series = wanted.series.iter().map(|(number, kind)| {
        let [mut avg, mut min, mut max] = [(); 3].map(|()| vec![None; points as usize]);
        for bucket in found {
            let place = bucket.number.checked_sub(wanted.first).filter(|place| *place < points);
            if let (Some(place), Some(spread)) = (place, bucket.of[*number]) {
                let place = place as usize;
                avg[place] = Some(rounded(spread.avg()));
                min[place] = Some(rounded(spread.min));
                max[place] = Some(rounded(spread.max));
            }
        }
        Series { name: kind.name.into(), unit: kind.unit.into(), avg, min, max }
    });
    let from = Time::from_second(i64::from(wanted.first) * i64::from(wanted.step)).unwrap_or_default();
    History { from, step: wanted.step, points, series: series.collect() }
}

/// A value with five digits: more were not kept.
fn rounded(value: f64) -> f64 {
    if value == 0.0 {
        return value;
    }
    let digits = 4 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits.abs());
    if digits < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Spread;

    const NOW: i64 = 1_800_000_123;

    fn wanted(query: HistoryQuery) -> Result<Wanted> {
        Wanted::of(&query, &HOST_SERIES, Time::from_second(NOW).unwrap())
    }

    fn back(seconds: i64, points: Option<u32>, step: Option<u32>) -> (usize, u32, u32) {
        let from = Some(Time::from_second(NOW - seconds).unwrap());
        let wanted = wanted(HistoryQuery { from, points, step, ..HistoryQuery::default() }).ok().unwrap();
        (wanted.level, wanted.step, wanted.last - wanted.first + 1)
    }

    #[test]
    fn the_detail_is_what_is_wanted_and_kept() {
        assert_eq!(back(3600, None, None), (1, 10, 361));
        assert_eq!(back(3600, Some(3600), None), (0, 1, 3600));
        assert_eq!(back(300, None, None), (0, 1, 300));
        assert_eq!(back(86400, None, None), (2, 300, 289));
        assert_eq!(back(86400, Some(1500), None), (1, 60, 1441));
        assert_eq!(back(30 * 86400, None, None), (2, 7200, 361));
        // A second is not kept so long.
        assert_eq!(back(7200, None, Some(2)), (1, 10, 721));
        assert_eq!(back(2 * 86400, None, Some(60)), (2, 300, 577));
        assert_eq!(back(3600, None, Some(7)), (0, 7, 515));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let now = Some(Time::from_second(NOW).unwrap());
        let none = HistoryQuery::default;
        for (query, pointer) in [
            (HistoryQuery { from: now, ..none() }, "/from"),
            (HistoryQuery { points: Some(0), ..none() }, "/points"),
            (HistoryQuery { points: Some(4001), ..none() }, "/points"),
            (HistoryQuery { step: Some(0), ..none() }, "/step"),
            (HistoryQuery { series: Some("cpu_busy,nothing".into()), ..none() }, "/series"),
            (
                HistoryQuery {
                    from: Some(Time::from_second(NOW - 86400).unwrap()),
                    step: Some(10),
                    ..none()
                },
                "/step",
            ),
        ] {
            let problem = wanted(query).err().unwrap().0;
            assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (422, pointer));
        }
    }

    #[test]
    fn spans_stand_where_they_belong_and_the_rest_is_nothing() {
        let query =
            HistoryQuery { series: Some("memory_used".into()), points: Some(6), ..HistoryQuery::default() };
        let wanted = Wanted { first: 100, last: 105, ..wanted(query).ok().unwrap() };
        let bucket = |number, value| {
            let mut bucket = Bucket::empty(number, HOST_SERIES.len());
            bucket.of[2] = Some(Spread { count: 2, sum: value, min: 0.0, max: value });
            bucket
        };
        let history = shown(&wanted, &[bucket(99, 1.0), bucket(101, 536_870_912.0), bucket(105, 3.0)]);
        let series = &history.series[0];
        assert_eq!((series.name.as_str(), history.points, history.step), ("memory_used", 6, 600));
        assert_eq!(series.avg, [None, Some(268_440_000.0), None, None, None, Some(1.5)]);
        assert_eq!((series.min[1], series.max[1]), (Some(0.0), Some(536_870_000.0)));
    }

    #[test]
    fn a_receipt_has_the_worst_second_of_its_span_and_none_where_nothing_ran() {
        let series = |name: &str, avg: f64, max: f64| Series {
            name: name.into(),
            unit: "processors".into(),
            avg: vec![None, Some(avg), Some(avg)],
            min: vec![None, Some(0.0), Some(0.0)],
            max: vec![None, Some(max), Some(avg)],
        };
        let from = Time::from_second(NOW).unwrap();
        let values = [0.5, 1.0, 0.6, 0.55, 0.01].into_iter().zip([0.5, 1.0, 0.6, 0.6, 0.2]);
        let series =
            RECEIPT.into_iter().zip(values).map(|(name, (avg, max))| series(name, avg, max)).collect();
        let told = receipted(&History { from, step: 10, points: 3, series });
        let times: Vec<_> = told.receipts.iter().map(|receipt| receipt.time.as_second() - NOW).collect();
        assert_eq!((times, told.kept, told.worst_short), (vec![10, 20], 1, 0.2));
        let first = &told.receipts[0];
        assert_eq!((first.delivered, first.short, first.kept), (0.55, 0.2, false));
    }

    #[test]
    fn values_have_five_digits() {
        let values = [0.0, 0.000_123_456, 1.234_567, 99_999.6, 123_456.0].map(rounded);
        assert_eq!(values, [0.0, 0.000_123_46, 1.2346, 100_000.0, 123_460.0]);
    }
}
