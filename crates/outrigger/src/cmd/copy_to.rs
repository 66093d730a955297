//! `outrigger copy-to`: copies this binary into a folder. The container image has no `cp`, and the app's
//! container needs the binary for its pre-stop hook (`outrigger drain`).

use std::{fs, io, path::PathBuf};

use clap::Args;

use super::report::{CommandError, print_line};

/// Copy this binary into a folder, for containers without cp
#[derive(Debug, Args)]
#[command(
    long_about = "Copy this binary into a folder. For an init container that shares the folder with the app's \
                  container: the pre-stop hook of the app then runs 'outrigger drain --wait'. The image has no cp.",
    after_help = "Example:\n  outrigger copy-to /shared"
)]
pub(super) struct CopyToArguments {
    /// The folder; it must exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &CopyToArguments) -> Result<(), CommandError> {
    let target = arguments.folder.join("outrigger");
    copy_executable(&target).map_err(|error| {
        CommandError::running(format!(
            "write {}: {error}; does the folder exist, and is it writable?",
            target.display()
        ))
    })?;
    print_line(format!("copied to {}", target.display()));
    Ok(())
}

/// Writes to a new name, then renames: a running binary cannot be written, but it can be replaced.
fn copy_executable(target: &std::path::Path) -> io::Result<()> {
    let fresh = target.with_extension("new");
    fs::copy(std::env::current_exe()?, &fresh)?; // with its permissions
    fs::rename(&fresh, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_identical_and_can_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = CopyToArguments { folder: folder.path().to_owned() };
        for _ in 0..2 {
            run(&arguments).unwrap();
        }
        let copied = fs::metadata(folder.path().join("outrigger")).unwrap();
        let original = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!((copied.len(), copied.permissions()), (original.len(), original.permissions()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let failure = run(&CopyToArguments { folder: "/no/such/folder".into() }).unwrap_err();
        assert!(failure.to_string().contains("/no/such/folder/outrigger"), "{failure}");
    }
}
