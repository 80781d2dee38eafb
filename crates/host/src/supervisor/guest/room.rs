//! Disks that there is no room for where they are: what the guest writes there waits until somebody makes some.

use super::Guest;

impl Guest {
    /// Its process says for which disks there is no room from now on.
    pub(super) async fn on_no_room(&mut self, disks: &[String]) {
        let number = |name: &String| name.strip_prefix("disk")?.parse().ok();
        let now: Vec<u32> = disks.iter().filter_map(number).collect();
        let before = std::mem::replace(&mut self.record.vm.status.no_room, now);
        let now = &self.record.vm.status.no_room;
        if *now == before {
            return;
        }
        let more: Vec<_> = now.iter().filter(|number| !before.contains(number)).collect();
        let happening = if !more.is_empty() {
            let more: Vec<_> = more.iter().map(ToString::to_string).collect();
            let message = format!(
                "waits: there is no room for what it writes to its disk {}; it goes on when the pool has some again",
                more.join(", ")
            );
            Some(self.happening("vm.no-room", message).with(serde_json::json!({ "disks": now })))
        } else if now.is_empty() {
            Some(self.happening("vm.room", "goes on: there is room again for what it writes"))
        } else {
            None
        };
        self.note(happening).await;
    }
}
