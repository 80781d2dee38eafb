//! `tessera apply`, `tessera diff` and `tessera export`: a whole host as text.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::output::{OutputOption, agreed, print, say};
use crate::client::{Client, HostOption};
use crate::colour;
use crate::failure::{self, Failure, Result, Status};
use crate::site::apply::Applier;
use crate::site::file::SiteFile;
use crate::site::found::{Host, plain};
use crate::site::plan::{Plan, Rules};
use crate::site::{export, plan, schema, show};

/// The exit status of `tessera diff` where there is a difference, as diff(1) has it.
const DIFFERS: u8 = 1;

/// What `tessera diff` says about the exit status.
const DIFF_STATUS_HELP: &str = "\
Exit status:
   0  the host is as the file says
   1  it is not: what is shown would be done
   2  bad arguments or a bad file, or the host failed
   4 to 7  as for other commands: tessera vm --help";

/// What makes the host what.
#[derive(Debug, Args)]
pub struct PlanOptions {
    /// Also delete what the site has made and the file says no more; never what others made
    #[arg(long)]
    prune: bool,
    /// Take what the file names and others have made as the site's
    #[arg(long)]
    adopt: bool,
    /// Do not start guests anew whose changes need that
    #[arg(long)]
    no_restart: bool,
}

impl PlanOptions {
    fn rules(&self) -> Rules {
        Rules { prune: self.prune, adopt: self.adopt, restart: !self.no_restart }
    }
}

/// Arguments of `tessera apply`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct ApplyArgs {
    /// The file: YAML, JSON or TOML; - for the standard input
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["schema", "site"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    plan: PlanOptions,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// How many seconds guests may take to power themselves off that have to
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = clap::value_parser!(u64).range(1..=86400))]
    deadline: u64,
    /// Pull the plug of those that have not by then
    #[arg(long)]
    force: bool,
    /// Make what the site changed the last time what it was before
    #[arg(long, conflicts_with_all = ["prune", "adopt"])]
    undo: bool,
    /// The site to undo, if no file says its name
    #[arg(long, value_name = "NAME", requires = "undo", conflicts_with = "file")]
    site: Option<api::Name>,
    /// Print the JSON Schema of files
    #[arg(long, conflicts_with_all = ["file", "yes", "undo", "site"])]
    schema: bool,
}

/// Arguments of `tessera diff`.
#[derive(Debug, Args)]
#[command(after_help = DIFF_STATUS_HELP)]
pub struct DiffArgs {
    /// The file: YAML, JSON or TOML; - for the standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    plan: PlanOptions,
    #[command(flatten)]
    output: OutputOption,
}

/// Arguments of `tessera export`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct ExportArgs {
    /// The site's name in the file: the host's if nothing is said
    #[arg(long, value_name = "NAME")]
    site: Option<api::Name>,
}

/// What is to be made so.
struct Aim {
    site: String,
    /// What errors begin with.
    place: String,
    /// The file, if it is not the last apply that is undone.
    file: Option<SiteFile>,
    rules: Rules,
}

impl Aim {
    /// Looks at the host, and plans.
    async fn plan(&self, client: &Client) -> Result<(Host, Plan)> {
        let host = Host::look(client, Some(&self.site)).await?;
        let planned = match &self.file {
            Some(file) => {
                let wanted = file.wanted(&host)?;
                plan::plan(Some(&self.site), &wanted, &host, self.rules)
            }
            None => plan::undo(&self.site, &host, self.rules),
        };
        Ok((host, planned.map_err(|failure| failure.within(&self.place))?))
    }
}

impl ApplyArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        if self.schema {
            return print_schema();
        }
        let file = self.file.as_deref().map(SiteFile::read).transpose()?;
        let site = file.as_ref().map(|file| file.site.clone()).or(self.site);
        let site = site.map(|site| site.to_string()).unwrap_or_default();
        let place = file.as_ref().map_or_else(|| site.clone(), |file| file.path.clone());
        let aim = Aim { site, place, file: file.filter(|_| !self.undo), rules: self.plan.rules() };
        let close = json!({ "deadline": self.deadline, "force": self.force });
        let client = host.client()?;
        let (_, planned) = aim.plan(&client).await?;
        say(show::plan(&planned, colour::wanted(&std::io::stdout()))?.trim_end());
        if planned.steps.is_empty() && !self.undo {
            return Ok(());
        }
        if !self.yes && !agreed("Do this?")? {
            return Err(Failure::new(Status::NotNow, "nothing has been done"));
        }
        // Somebody may have been quicker than the answer.
        let (found, again) = aim.plan(&client).await?;
        if again != planned {
            let why = "the host has changed since the plan was shown: nothing has been done; look again";
            return Err(Failure::new(Status::NotNow, why));
        }
        aim.apply(Applier::new(&client, &aim.site, &found, close), &found, &planned).await
    }
}

impl Aim {
    async fn apply(&self, mut applier: Applier<'_>, host: &Host, plan: &Plan) -> Result<()> {
        match self.file {
            Some(_) => applier.begin(plan, host).await?,
            None => applier.begin_undo(plan).await?,
        }
        for (number, step) in plan.steps.iter().enumerate() {
            let done = applier.step(step).await;
            if let Err(failure) = done {
                for left in &plan.steps[number..] {
                    say(&format!("{}: not {}", left.key, show::words(left).1));
                }
                let field = if step.place.is_empty() { step.key.to_string() } else { step.place.clone() };
                return Err(failure.within(field).within(&self.place));
            }
            say(&format!("{}: {}", step.key, show::words(step).1));
        }
        match self.file {
            Some(_) => Ok(()),
            None => applier.undone().await,
        }
    }
}

fn print_schema() -> Result<()> {
    let text = serde_json::to_string_pretty(&schema::schema()?);
    print(&(text.map_err(|error| Failure::internal(error.to_string()))? + "\n"));
    Ok(())
}

impl DiffArgs {
    /// Does it; the status says whether there is a difference.
    pub async fn execute(self, host: &HostOption) -> Result<ExitCode> {
        self.compare(host).await.map_err(|failure| match failure.status {
            // 1 says that there is a difference.
            Status::Internal => Failure::input(failure),
            _ => failure,
        })
    }

    async fn compare(self, host: &HostOption) -> Result<ExitCode> {
        let file = SiteFile::read(&self.file)?;
        let (site, place) = (file.site.to_string(), file.path.clone());
        let aim = Aim { site, place, file: Some(file), rules: self.plan.rules() };
        let (_, planned) = aim.plan(&host.client()?).await?;
        if self.output.is_table() {
            print(&show::plan(&planned, colour::wanted(&std::io::stdout()))?);
        } else {
            self.output.one(&plain(&planned)?)?;
        }
        Ok(if planned.steps.is_empty() { Status::Done.into() } else { ExitCode::from(DIFFERS) })
    }
}

impl ExportArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let found = Host::look(&host.client()?, None).await?;
        if found.without_users {
            eprintln!("tessera: users are left out: only who has the role admin sees them");
        }
        let site = match self.site {
            Some(site) => site,
            None => found.name.parse().or_else(|_| "host".parse()).map_err(Failure::internal)?,
        };
        print(&export::yaml(&found, site.as_str())?);
        Ok(())
    }
}
