//! `haul man [DIR]`

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::text::escape;

#[derive(Debug, Args)]
pub struct Man {
    /// Write haul.1, haul-put.1 and all the others into this directory
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

pub fn run(man: &Man) -> Result<Exit, Failure> {
    match &man.dir {
        Some(dir) => {
            let failed = |error| Failure::failed(format!("{}: {error}", escape(&dir.to_string_lossy())));
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
        }
        None => output::print(&page()?)?,
    }
    Ok(Exit::Done)
}

/// `haul.1`.
fn page() -> Result<String, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
    rendered.map_err(|error| Failure::failed(format!("cannot write the manual page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pages = dir.path().join("man1");
        assert_eq!(run(&Man { dir: Some(pages.clone()) }).expect("written"), Exit::Done);
        for name in Cli::command().get_subcommands().map(clap::Command::get_name) {
            let page = std::fs::read_to_string(pages.join(format!("haul-{name}.1"))).expect(name);
            assert!(page.contains(".TH"), "{name}");
        }
        assert!(pages.join("haul-doctor-import.1").exists());
        let whole = std::fs::read_to_string(pages.join("haul.1")).expect("haul.1");
        assert_eq!(whole, page().expect("rendered"));
        assert!(whole.contains("Exit codes") || whole.contains("EXIT"), "{whole}");
    }
}
