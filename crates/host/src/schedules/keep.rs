//! Does what schedules say, when they say it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Backup, Id, Name, NewBackup, NewSnapshot, NewTask, Problem, ScheduleAction, Snapshot, Time, Vm};
use storage::Silent;
use tokio::time::sleep;

use super::{PREFIX, Stored};
use crate::daemon::{Host, TaskProgress};
use crate::machine;
use crate::records;
use crate::supervisor::{joined, stamp};
use crate::tasks;

/// The longest time between two looks: somebody may have set the clock.
const LOOK: Duration = Duration::from_secs(30);
/// A moment is over when it is: a look comes so much later.
const AFTER: Duration = Duration::from_millis(5);

/// How long to wait for somebody who backs up a guest that is to be backed up.
const WAIT: Duration = Duration::from_secs(1);

/// Guests of which a schedule is at work: others have to wait for it.
type Busy = Arc<Mutex<HashSet<Id>>>;

/// Does what schedules say. Never returns.
pub async fn keep(host: Arc<Host>) {
    let busy = Busy::default();
    loop {
        let wait = match host.schedules.read(PREFIX).await {
            Ok(all) => look(&host, &busy, all),
            Err(error) => {
                tracing::error!("schedules cannot be read: {error}");
                LOOK
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = host.schedules.changed.notified() => {}
        }
    }
}

/// Begins what is due; gives how long to wait until something is.
fn look(host: &Arc<Host>, busy: &Busy, all: Vec<Stored>) -> Duration {
    let now = Time::now();
    let mut wait = LOOK;
    for stored in all.into_iter().filter(|stored| stored.definition.enabled) {
        let until = stored.definition.next(now).duration_since(now);
        wait = wait.min(until.unsigned_abs() + AFTER);
        let vm = stored.vm;
        if !stored.definition.is_due(stored.since(), now) {
            continue;
        }
        if host.supervisor.is_being_backed_up(vm) {
            wait = wait.min(WAIT);
            continue;
        }
        if busy.lock().unwrap_or_else(PoisonError::into_inner).insert(vm) {
            let (host, busy) = (Arc::clone(host), Arc::clone(busy));
            tokio::spawn(async move {
                work(&host, stored).await;
                busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
                // It may be due again by now, or another one.
                host.schedules.changed.notify_one();
            });
        }
    }
    wait
}

/// Makes what is due, and has what is old go.
async fn work(host: &Arc<Host>, stored: Stored) {
    let at = Time::now();
    // A guest that has been deleted has taken its schedules along.
    let Ok((vm, _)) = host.supervisor.find(&stored.vm.to_string()).await else { return };
    let result = match make(host, &vm, &stored, at).await {
        Ok(()) => prune(host, &vm, &stored).await.map_err(|problem| format!("old ones stay: {problem}")),
        Err(problem) => Err(problem.detail),
    };
    let name = &stored.definition.name;
    if let Err(problem) = host.schedules.note(&vm, name, at, result.err()).await {
        tracing::error!(
            "what the schedule {name} of {} did cannot be recorded: {problem}",
            vm.definition.name
        );
        // It would be due again at once.
        sleep(LOOK).await;
    }
}

fn actor(stored: &Stored) -> String {
    format!("schedule {}", stored.definition.name)
}

/// Makes one, as a task; waits for its end.
async fn make(host: &Arc<Host>, vm: &Vm, stored: &Stored, at: Time) -> Result<(), Problem> {
    let schedule = stored.definition.clone();
    let (is_made, full) = match schedule.action {
        ScheduleAction::Snapshot => {
            let own = snapshots(host, vm, stored).await?;
            (own.iter().any(|own| !schedule.is_due(own.created, at)), false)
        }
        ScheduleAction::Backup => {
            let all = backups(host, vm, stored).await?;
            let is_own = |one: &Backup| one.schedule.as_ref() == Some(&schedule.name);
            let is_made = all.iter().any(|one| is_own(one) && !schedule.is_due(one.created, at));
            (is_made, is_full(&all, schedule.full_every))
        }
    };
    if is_made {
        // By a daemon that was killed before it could note that.
        return Ok(());
    }
    let action = match schedule.action {
        ScheduleAction::Snapshot => "vm.snapshot",
        ScheduleAction::Backup => "vm.backup",
    };
    let name = vm.definition.name.to_string();
    let task = NewTask { action, target: records::path(vm.id), name, actor: actor(stored) };
    let (doing, id, actor) = (Arc::clone(host), vm.id, actor(stored));
    let (tell, told) = tokio::sync::oneshot::channel();
    let work = move |work| async move {
        let progress = Arc::new(TaskProgress::new(work));
        let made = match (schedule.action, schedule.pool) {
            (ScheduleAction::Backup, Some(pool)) => {
                let new = NewBackup {
                    pool,
                    name: None,
                    description: String::new(),
                    full,
                    quiesce: schedule.quiesce,
                    schedule: Some(schedule.name),
                };
                let made = doing.supervisor.back_up(id, new, machine::host_name(), &actor, progress).await;
                made.and_then(tasks::told)
            }
            _ => {
                let new = NewSnapshot {
                    name: joined(&schedule.name, &stamp(at))?,
                    description: String::new(),
                    memory: false,
                    quiesce: schedule.quiesce,
                    schedule: Some(schedule.name),
                };
                let made = doing.supervisor.snap(id, new, &actor, progress).await;
                made.and_then(tasks::told)
            }
        };
        // Nobody waits if the daemon ends.
        let _ = tell.send(made.as_ref().map(drop).map_err(Clone::clone));
        made
    };
    host.tasks.begin(task, work).await.map_err(crate::supervisor::store_problem)?;
    told.await
        .unwrap_or_else(|_| Err(Problem::internal("a fault in the daemon ended the task; its log says more")))
}

/// The backups of a guest in the pool of a schedule.
async fn backups(host: &Host, vm: &Vm, stored: &Stored) -> Result<Vec<Backup>, Problem> {
    let mut all = host.supervisor.backups().await?;
    all.retain(|backup| backup.vm == Some(vm.id) && Some(&backup.pool) == stored.definition.pool.as_ref());
    Ok(all)
}

/// The snapshots of a guest that a schedule has made.
async fn snapshots(host: &Host, vm: &Vm, stored: &Stored) -> Result<Vec<Snapshot>, Problem> {
    let mut all = host.supervisor.snapshots(vm).await?;
    all.retain(|snapshot| snapshot.schedule.as_ref() == Some(&stored.definition.name));
    Ok(all)
}

/// Whether the next backup is to have all that is on the disks: the last chain is so long.
fn is_full(all: &[Backup], full_every: u32) -> bool {
    let mut next = all.last();
    let mut chain = 0;
    while let Some(backup) = next {
        chain += 1;
        next = all.iter().find(|other| Some(other.id) == backup.parent);
    }
    chain >= full_every
}

/// Has those go that it has made and keeps no more.
async fn prune(host: &Host, vm: &Vm, stored: &Stored) -> Result<(), Problem> {
    let (name, keep, actor) = (&stored.definition.name, &stored.definition.keep, actor(stored));
    if stored.definition.action == ScheduleAction::Snapshot {
        let own = snapshots(host, vm, stored).await?;
        let kept = keep.kept(&own.iter().map(|one| (one.id, one.created)).collect::<Vec<_>>());
        for old in own.iter().filter(|one| !kept.contains(&one.id)) {
            host.supervisor.delete_snapshot(vm.id, &old.id.to_string(), &actor, Arc::new(Silent)).await?;
        }
        return Ok(());
    }
    let all = backups(host, vm, stored).await?;
    for old in gone(&all, name, |own| keep.kept(own)) {
        host.supervisor.delete_backup(old, &actor).await?;
    }
    Ok(())
}

/// The backups of a schedule that it keeps no more and that no other one needs, those first that need others.
fn gone<'a>(
    all: &'a [Backup],
    schedule: &Name,
    keep: impl Fn(&[(Id, Time)]) -> HashSet<Id>,
) -> Vec<&'a Backup> {
    let own: Vec<_> = all.iter().filter(|backup| backup.schedule.as_ref() == Some(schedule)).collect();
    let kept = keep(&own.iter().map(|backup| (backup.id, backup.created)).collect::<Vec<_>>());
    let stays = |backup: &Backup| backup.schedule.as_ref() != Some(schedule) || kept.contains(&backup.id);
    let mut needed: HashSet<Id> = HashSet::new();
    for backup in all.iter().filter(|backup| stays(backup)) {
        let mut next = Some(backup);
        while let Some(backup) = next.filter(|backup| needed.insert(backup.id)) {
            next = all.iter().find(|other| Some(other.id) == backup.parent);
        }
    }
    let mut gone: Vec<_> = own.into_iter().filter(|backup| !needed.contains(&backup.id)).collect();
    gone.reverse();
    gone
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_kept_backup_needs_stays_and_what_was_made_by_hand() {
        let ids: Vec<Id> = (0..6).map(|_| Id::new()).collect();
        // Two chains of three; the last of the first chain was made by hand.
        let backup = |n: usize, parent: Option<usize>, schedule: Option<&str>| -> Backup {
            serde_json::from_value(json!({
                "id": ids[n], "name": format!("b{n}"), "pool": "p", "vm_name": "a", "host": "h",
                "created": format!("2026-11-27T1{n}:00:00Z"), "state": "running", "disks": [], "stored": 0,
                "parent": parent.map(|n| ids[n]), "schedule": schedule,
            }))
            .unwrap()
        };
        let s = Some("s");
        let mut all = vec![
            backup(0, None, s),
            backup(1, Some(0), s),
            backup(2, Some(1), s),
            backup(3, None, s),
            backup(4, Some(3), s),
            backup(5, Some(4), s),
        ];
        let last = |count: u32| {
            move |own: &[(Id, Time)]| api::Retention { last: count, ..Default::default() }.kept(own)
        };
        let gone = |all: &[Backup], count| -> Vec<Id> {
            gone(all, &"s".parse().unwrap(), last(count)).iter().map(|backup| backup.id).collect()
        };
        assert!(gone(&all, 4).is_empty(), "all of the first chain is needed by its last");
        assert_eq!(gone(&all, 3), [ids[2], ids[1], ids[0]]);
        assert_eq!(gone(&all, 1), [ids[2], ids[1], ids[0]]);
        all[1].schedule = None;
        assert_eq!(gone(&all, 1), [ids[2]]);
        assert!(super::gone(&all, &"other".parse().unwrap(), last(1)).is_empty());
    }
}
