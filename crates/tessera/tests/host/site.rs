//! A host as text: `tessera apply`, `diff` and `export`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::http::ask;
use crate::terminal::AtTerminal;
use crate::{Daemon, waits};

impl Daemon {
    /// A file with this text.
    pub fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What would be done, and the exit status.
    fn differs(&self, words: &str) -> (Option<i32>, String) {
        let output = self.tessera(&format!("diff {words}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors, "", "tessera diff {words}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    fn names(&self, of: &str) -> Vec<String> {
        self.run(&format!("{of} ls -o name")).split_whitespace().map(str::to_owned).collect()
    }
}

/// A site with one of each kind.
fn site(daemon: &Daemon) -> String {
    let (kernel, pool) = (daemon.kernel("kernel", &waits()), daemon.folder.path().join("fast"));
    format!(
        r#"# a comment
site: home
pools:
- {{name: fast, path: {pool}}}
networks:
- {{name: lan, kind: isolated}}
volumes:
- {{name: layer, pool: fast, source: {{volume: data}}, linked: true}}
- {{name: data, pool: fast, size: 8M}}
share_groups:
- {{name: inner, within: outer, cpu_share: {{weight: 2000}}}}
- {{name: outer, expandable: false, cpu_share: {{reserve: 0.5}}, memory_share: {{limit: 1G}}, disk_share: {{weight: 2000}}}}
templates:
- name: small
  definition: {{memory: 32M, engine: soft, boot: {{kernel: {kernel}}}}}
vms:
- name: web
  template: small
  state: running
  labels: {{team: a}}
  disks:
  - volume: {{pool: fast, name: layer}}
  nics:
  - network: {{named: lan}}
- {{name: db, template: small, cpus: 2, share_group: inner}}
users:
- {{name: ann, role: operator, labels: {{team: a}}, disabled: true}}
"#,
        pool = pool.display()
    )
}

#[test]
fn a_file_makes_a_host_and_applied_again_does_nothing() {
    let daemon = Daemon::start_in(true);
    let text = site(&daemon);
    let file = daemon.text("site.yaml", &text);
    let file = file.display();
    let (status, shown) = daemon.differs(&format!("-f {file}"));
    assert_eq!(status, Some(1), "{shown}");
    for line in [
        "+ pool fast is made\n",
        "+ volume fast/data is made\n    pool: fast\n    size: 8M\n",
        "+ vm web is made\n",
        "    memory: 32M\n    nics:\n    - network:\n        named: lan\n    state: running\n    template: small\n",
        "+ user ann is made (cannot log in before tessera user passwd ann)\n",
        "10 to make\n",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown}");
    // One that another one is based on comes first, whatever the file says; so does one that another one is in.
    assert!(shown.find("share-group outer") < shown.find("share-group inner"), "{shown}");
    assert!(shown.find("volume fast/data") < shown.find("volume fast/layer"), "{shown}");
    assert_eq!(daemon.names("vm"), Vec::<String>::new(), "nothing has been done");
    let (status, said) = daemon.fails(&format!("apply -f {file}"));
    assert_eq!((status, said.as_str()), (Some(2), "tessera: there is no terminal to ask at: give --yes\n"));

    let said = daemon.run(&format!("apply -f {file} --yes"));
    assert!(said.contains("vm web: made\n") && said.contains("user ann: made\n"), "{said}");
    assert_eq!(daemon.state_of("web"), "running");
    assert_eq!(daemon.state_of("db"), "stopped");
    let web = daemon.vm("web");
    assert_eq!(
        (&web["labels"], &web["template"]),
        (&json!({"team": "a", "tessera.site": "home"}), &json!("small"))
    );
    assert_eq!(daemon.json("share group show inner")["guests"], 1);
    let outer = daemon.json("share group show outer");
    assert_eq!(
        (&outer["memory_share"]["limit"], &outer["disk_share"]["weight"]),
        (&json!(1 << 30), &json!(2000))
    );
    assert_eq!((&web["memory"], &daemon.vm("db")["cpus"]), (&json!(32 << 20), &json!(2)));
    let ann = &daemon.json("user ls")[0];
    assert_eq!(
        (&ann["role"], &ann["labels"], &ann["disabled"]),
        (&json!("operator"), &json!({"team": "a"}), &json!(true))
    );

    assert_eq!(
        daemon.differs(&format!("-f {file}")),
        (Some(0), "nothing to do: the host is as the site says\n".into())
    );
    let before = daemon.json("task ls");
    assert_eq!(
        daemon.run(&format!("apply -f {file} --yes")),
        "nothing to do: the host is as the site says\n"
    );
    assert_eq!(daemon.json("task ls"), before);

    // What a host has is such a file, and makes another host the same.
    let exported = daemon.run("export --site home");
    assert!(!exported.contains("password") && !exported.contains("tessera.site"), "{exported}");
    assert!(
        exported
            .contains("- name: db\n  cpus: 2\n  share_group: inner\n  state: stopped\n  template: small\n"),
        "{exported}"
    );
    let exported = daemon.text("exported.yaml", &exported);
    let exported = exported.display();
    assert_eq!(
        daemon.differs(&format!("-f {exported}")).0,
        Some(0),
        "{:?}",
        daemon.differs(&format!("-f {exported}"))
    );
    let other = Daemon::start_in(true);
    let pool = daemon.folder.path().join("fast").display().to_string();
    let moved = std::fs::read_to_string(daemon.folder.path().join("exported.yaml")).unwrap();
    let moved = moved.replace(&pool, &other.folder.path().join("fast").display().to_string());
    other.text("moved.yaml", &moved);
    let moved = other.folder.path().join("moved.yaml").display().to_string();
    other.run(&format!("apply --yes -f {moved}"));
    assert_eq!(other.differs(&format!("-f {moved}")).0, Some(0));
    assert_eq!(other.vm("web")["nics"], daemon.vm("web")["nics"]);
}

#[test]
fn what_changes_is_shown_changed_and_undone_and_only_what_the_site_made_is_pruned() {
    let daemon = Daemon::start_in(true);
    let text = site(&daemon);
    let path = daemon.text("site.yaml", &text);
    let file = path.display();
    daemon.run(&format!("apply -f {file} --yes"));
    // Of others: one of their own, one that carries the site's label, and a network.
    let kernel = daemon.folder.path().join("kernel").display().to_string();
    daemon.run(&format!(
        "vm create mine --kernel {kernel} --memory 32M --engine soft --label tessera.site=home"
    ));
    daemon.run("network create theirs --kind isolated");
    let was = daemon.json("vm ls");

    let changed = text
        .replace("size: 8M", "size: 16M")
        .replace("labels: {team: a}\n", "labels: {team: b}\n")
        .replace(
            "- {name: db, template: small, cpus: 2, share_group: inner}\n",
            "- {name: mine, boot: {kernel: KERNEL}, memory: 32M, engine: soft, description: ours}\n",
        )
        .replace("KERNEL", &kernel)
        .replace("  state: running\n", "  cpus: 3\n")
        .replace("definition: {memory: 32M", "definition: {memory: 48M")
        .replace("users:\n- {name: ann, role: operator, labels: {team: a}, disabled: true}\n", "");
    daemon.text("site.yaml", &changed);
    let (status, shown) = daemon.differs(&format!("-f {file} --prune"));
    assert_eq!(status, Some(1));
    for line in [
        "~ vm web is changed, and started anew\n    cpus: 1 -> 3\n    labels.team: a -> b\n    memory: 32M -> 48M\n",
        "~ template small is changed\n    definition.memory: 32M -> 48M\n",
        "~ vm mine is changed\n    description: \"\" -> ours\n",
        "- vm db is deleted (its own disks are lost)\n",
        "- user ann is deleted\n",
        "4 to change, 1 of them to start anew, 2 to delete\n",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!daemon.differs(&format!("-f {file}")).1.contains("deleted"), "not without --prune");
    let plan = daemon.tessera(&format!("diff -f {file} --prune -o json")).stdout;
    let plan: Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!((&plan["steps"][0]["deed"], &plan["steps"][0]["kind"]), (&json!("change"), &json!("volume")));
    // A guest that runs has the volume.
    let (status, said) = daemon.fails(&format!("apply -f {file} --prune --yes"));
    assert_eq!(status, Some(5), "{said}");
    assert!(said.starts_with(&format!("tessera: {file}: volumes[1]: ")), "{said}");
    daemon.text("site.yaml", &changed.replace("size: 16M", "size: 8M"));
    let pid = daemon.vm("web")["status"]["pid"].clone();
    let said = daemon.run(&format!("apply -f {file} --prune --yes --deadline 1 --force"));
    assert!(
        said.contains("vm web: changed, and started anew\n") && said.contains("vm db: deleted\n"),
        "{said}"
    );
    assert_eq!(daemon.names("vm"), ["web", "mine"]);
    assert_eq!(daemon.names("user"), Vec::<String>::new());
    let web = daemon.vm("web");
    assert_eq!(
        (&web["cpus"], &web["status"]["state"], &web["status"]["pending_restart"]),
        (&json!(3), &json!("running"), &json!(false))
    );
    assert_ne!(web["status"]["pid"], pid);

    // The host remembers it, and lets nobody write over what somebody else has written meanwhile.
    let sites = ask(&daemon, "GET", "/sites", "", &Value::Null).body;
    assert_eq!((&sites["items"][0]["name"], &sites["items"][0]["actor"]), (&json!("home"), &json!("root")));
    let stale = ask(&daemon, "PUT", "/sites/home", "If-Match: \"1\"\r\n", &json!({"members": []}));
    assert_eq!(stale.status, 412, "{}", stale.text);

    // What the site did not make stays, whatever the file says no more.
    daemon.text("site.yaml", "site: home\nvms: []\n");
    let (_, shown) = daemon.differs(&format!("-f {file} --prune"));
    assert!(!shown.contains("vm mine") && !shown.contains("theirs") && shown.contains("- vm web"), "{shown}");

    let said = daemon.run(&format!("apply -f {file} --undo --yes --deadline 1 --force"));
    assert!(said.contains("+ vm db is made (what was on it is not there any more)"), "{said}");
    let strip = |vms: Value| -> Vec<Value> {
        let mut vms = vms.as_array().unwrap().clone();
        vms.sort_by_key(|vm| vm["name"].to_string());
        for vm in &mut vms {
            for own in ["id", "created", "status"] {
                vm.as_object_mut().unwrap().remove(own);
            }
        }
        vms
    };
    assert_eq!(strip(daemon.json("vm ls")), strip(was));
    assert_eq!((daemon.state_of("web").as_str(), daemon.names("user")), ("running", vec!["ann".to_owned()]));
    let (status, said) = daemon.fails("apply --undo --yes --site home");
    assert_eq!(
        (status, said.as_str()),
        (Some(2), "tessera: home: there is nothing to undo of the site home\n")
    );
    // Those that were made again are the site's again.
    let (_, shown) = daemon.differs(&format!("-f {file} --prune"));
    assert!(
        shown.contains("- vm db") && shown.contains("- user ann") && !shown.contains("vm mine"),
        "{shown}"
    );
    daemon.run(&format!("apply -f {file} --prune --yes"));
    assert_eq!(
        (daemon.names("vm"), daemon.names("network")),
        (vec!["mine".to_owned()], vec!["theirs".to_owned()])
    );
    assert_eq!(daemon.names("pool"), ["default"]);
}

#[test]
fn an_apply_stops_where_it_fails_says_what_is_left_and_is_gone_on_with_or_undone() {
    let daemon = Daemon::start();
    let kernel = daemon.kernel("kernel", &waits());
    let vm = |name: &str, kernel: &str| {
        format!("- {{name: {name}, memory: 32M, engine: soft, boot: {{kernel: {kernel}}}, state: running}}\n")
    };
    let no_kernel = daemon.text("text", "no kernel at all");
    let text = format!(
        "site: home\nvms:\n{}{}{}",
        vm("a", &kernel),
        vm("b", &no_kernel.display().to_string()),
        vm("c", &kernel)
    );
    let path = daemon.text("site.yaml", &text);
    let file = path.display();
    let output = daemon.tessera(&format!("apply -f {file} --yes"));
    let (told, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(told.ends_with("vm a: made\nvm b: not made\nvm c: not made\n"), "{told}");
    assert!(
        said.starts_with(&format!("tessera: {file}: vms[1]: ")) && said.contains("is no kernel"),
        "{said}"
    );
    assert_eq!(daemon.names("vm"), ["a", "b"], "it was made, and does not start");
    // What was wrong is mended, and the rest is done.
    daemon.text("site.yaml", &text.replace(&no_kernel.display().to_string(), &kernel));
    let said = daemon.run(&format!("apply -f {file} --yes"));
    assert!(said.ends_with("vm b: changed\nvm c: made\n"), "{said}");
    assert_eq!(daemon.state_of("b"), "running");
    let said = daemon.run(&format!("apply -f {file} --undo --yes --deadline 1 --force"));
    assert!(said.contains("- vm c is deleted (it runs: its plug is pulled"), "{said}");
    assert_eq!(daemon.names("vm"), ["a", "b"]);
}

#[test]
fn at_a_terminal_it_is_asked_first_and_toml_and_the_standard_input_are_taken() {
    let daemon = Daemon::start();
    let file = daemon.text("site.toml", "site = \"home\"\n[[volumes]]\nname = \"data\"\nsize = \"8M\"\n");
    let apply = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(["apply", "-f"]).arg(&file);
        AtTerminal::start(command)
    };
    let mut no = apply();
    no.reads("Do this? [y/N]");
    no.sees("colours", |screen| screen.cell(0, 0).unwrap().fgcolor() != vt100::Color::Default);
    no.types("n\r");
    no.reads("nothing has been done");
    assert_eq!(no.ended().code(), Some(5));
    assert_eq!(daemon.names("volume"), Vec::<String>::new());
    let mut yes = apply();
    yes.reads("Do this? [y/N]");
    yes.types("y\r");
    yes.reads("volume default/data: made");
    assert!(yes.ended().success());
    assert_eq!(daemon.names("volume"), ["data"]);
    let (status, said) = daemon.fails("diff -f -");
    assert_eq!(status, Some(2));
    assert!(said.contains("-: a site is fields with lists"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_with_its_place_before_anything_is_done() {
    let daemon = Daemon::start();
    daemon.run("volume create data --size 8M");
    for (text, status, wanted) in [
        (
            "site: home\nvolumes: [{name: data, size: 8M, description: x}]",
            2,
            "volumes[0]: the volume default/data has nothing as its description",
        ),
        (
            "site: home\nvms: [{name: a, cpu: 2}, {name: b, disks: [{image: x}]}]",
            2,
            "vms[0].cpu: unknown field `cpu`",
        ),
        (
            "site: home\nvms: [{name: b, disks: [{image: x}]}]",
            2,
            "vms[0].disks[0].image: there is no image x",
        ),
        ("site: home\npools: [{name: default, path: /elsewhere}]", 2, "pools[0]: the pool default has "),
        ("nothing: 1", 2, "there is no field nothing"),
        ("site: [", 2, "at line 2 column 1"),
    ] {
        let file = daemon.text("site.yaml", text);
        let file = file.display();
        for verb in ["apply --yes", "diff"] {
            let (got, said) = daemon.fails(&format!("{verb} -f {file}"));
            assert_eq!(got, Some(status), "{text}: {said}");
            assert!(
                said.starts_with(&format!("tessera: {file}: ")) && said.contains(wanted),
                "{text}: {said}"
            );
        }
    }
    assert_eq!(daemon.fails("diff -f /does/not/exist").0, Some(2));
    let token = daemon.run("token create looker --role viewer");
    let file = daemon.text("site.yaml", "site: home\n");
    assert_eq!(daemon.fails(&format!("--token {} diff -f {}", token.trim(), file.display())).0, Some(6));
    let export = daemon.tessera(&format!("--token {} export", token.trim()));
    assert!(export.status.success());
    assert!(String::from_utf8_lossy(&export.stderr).contains("users are left out"));
    let schema: Value = serde_json::from_str(&daemon.run("apply --schema")).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn schedules_of_guests_are_written_made_changed_taken_away_and_undone() {
    let daemon = Daemon::start();
    let kernel = daemon.kernel("kernel", &waits());
    let vault = daemon.folder.path().join("vault");
    let text = |schedules: &str| {
        format!(
            "site: home\npools:\n- {{name: vault, path: {}}}\nvms:\n- {{name: a, memory: 32M, engine: soft, boot: {{kernel: {kernel}}}{schedules}}}\n",
            vault.display()
        )
    };
    let hourly = "{name: hourly, action: snapshot, every: 3600, keep: {last: 24}}";
    let nightly =
        "{name: nightly, action: backup, pool: vault, every: 86400, offset: 7200, keep: {daily: 7}}";
    let apply = |schedules: &str, more: &str| {
        let file = daemon.text("site.yaml", &text(schedules));
        daemon.run(&format!("apply -f {} --yes {more}", file.display()))
    };
    let has = || {
        let all = daemon.json("schedule ls a");
        let told =
            |one: &Value| format!("{} {} {}", one["name"].as_str().unwrap(), one["every"], one["enabled"]);
        all.as_array().unwrap().iter().map(told).collect::<Vec<_>>()
    };
    apply(&format!(", schedules: [{hourly}, {nightly}]"), "");
    assert_eq!(has(), ["hourly 3600 true", "nightly 86400 true"]);
    let created = daemon.json("schedule show a hourly")["created"].clone();
    let same = daemon.text("site.yaml", &text(&format!(", schedules: [{nightly}, {hourly}]")));
    assert_eq!(daemon.differs(&format!("-f {}", same.display())).0, Some(0));

    // What export writes is the same again.
    let exported = daemon.run("export --site home");
    for line in ["schedules:", "name: nightly", "offset: 7200", "pool: vault", "daily: 7"] {
        assert!(exported.contains(line), "{line} is not in\n{exported}");
    }
    assert!(!exported.contains("full_every") && !exported.contains("weekly"), "{exported}");
    let file = daemon.text("exported.yaml", &exported);
    assert_eq!(daemon.differs(&format!("-f {}", file.display())).0, Some(0), "{exported}");

    // One is changed, one goes, one is made; what says nothing of them leaves them.
    let changed = hourly.replace("3600", "7200").replace("24}", "24}, enabled: false");
    let daily = "{name: daily, action: snapshot, every: 86400, keep: {daily: 3}}";
    let file = daemon.text("site.yaml", &text(&format!(", schedules: [{changed}, {daily}]")));
    let (status, shown) = daemon.differs(&format!("-f {}", file.display()));
    assert_eq!(status, Some(1));
    assert!(shown.contains("schedules.hourly.every: 3600 -> 7200"), "{shown}");
    apply(&format!(", schedules: [{changed}, {daily}]"), "");
    assert_eq!(has(), ["daily 86400 true", "hourly 7200 false"]);
    assert_eq!(daemon.json("schedule show a hourly")["created"], created, "it is the same one");
    apply("", "");
    assert_eq!(has().len(), 2);
    apply(", schedules: []", "");
    assert_eq!(has(), Vec::<String>::new());
    daemon.run("apply --undo --site home --yes");
    assert_eq!(has(), ["daily 86400 true", "hourly 7200 false"]);
}
