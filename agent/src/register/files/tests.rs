//! A folder that changes, look by look.

use std::fs;

use tempfile::TempDir;

use super::*;

const WEB: &str = "[service]\nname = \"web\"\n[[instance]]\nid = \"a\"\naddr = \"127.0.0.1:80\"\n";

struct Case {
    dir: TempDir,
    folder: Folder,
    /// Each look is far later than the one before, so that equal stamps are trusted.
    now_ms: u64,
}

impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned());
        let case = Self { dir, folder, now_ms: clock::unix_ms() };
        for (name, text) in files {
            case.write(name, text);
        }
        case
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    /// One look: `true` when it is settled and changed something.
    fn look(&mut self) -> (bool, bool) {
        self.now_ms += 10 * TICK_MS;
        let version = self.folder.version;
        let look = self.folder.look(self.now_ms);
        (look.is_settled, self.folder.version != version)
    }

    fn services(&self) -> Vec<String> {
        self.folder.found().declared.iter().map(|one| one.service.name.to_string()).collect()
    }

    fn bad(&self) -> Vec<String> {
        self.folder.found().bad.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn the_first_look_takes_all_files_and_nothing_else() {
    let db = WEB.replace("web", "db");
    let mut case = Case::new(&[
        ("web.toml", WEB),
        ("db.toml", &db),
        (".hidden.toml", "no"),
        ("web.toml~", "no"),
        ("notes.txt", "no"),
    ]);
    assert_eq!(case.look(), (true, true));
    assert_eq!(case.services(), ["db", "web"]);
    assert_eq!(case.look(), (true, false));
}

#[test]
fn a_change_counts_when_it_has_settled() {
    let mut case = Case::new(&[("web.toml", WEB)]);
    case.look();
    case.write("web.toml", &WEB.replace("\"web\"", "\"webs\""));
    assert_eq!(case.look(), (false, false));
    assert_eq!(case.services(), ["web"]);
    assert_eq!(case.look(), (true, true));
    assert_eq!(case.services(), ["webs"]);
}

#[test]
fn a_file_that_is_replaced_by_way_of_none_is_never_gone() {
    let mut case = Case::new(&[("web.toml", WEB)]);
    case.look();
    case.remove("web.toml");
    assert_eq!(case.look(), (false, false));
    case.write("web.toml", WEB);
    assert_eq!(case.look(), (false, false));
    assert_eq!(case.look(), (true, false));
    assert_eq!(case.services(), ["web"]);
    case.remove("web.toml");
    case.look();
    assert_eq!(case.look(), (true, true));
    assert!(case.services().is_empty());
}

#[test]
fn a_bad_file_keeps_what_it_last_declared() {
    let mut case = Case::new(&[("web.toml", WEB)]);
    case.look();
    case.write("web.toml", "[service]\nname = 7\n");
    case.look();
    assert_eq!(case.look(), (true, true));
    assert_eq!(case.services(), ["web"]);
    assert_eq!(case.bad(), ["web.toml:2: invalid type: integer `7`, expected a string"]);
    assert_eq!(case.folder.found().unknown, Unknown::default());
    case.write("web.toml", WEB);
    case.look();
    case.look();
    assert!(case.bad().is_empty());
}

#[test]
fn of_a_file_that_was_never_good_nothing_is_known() {
    let mut case = Case::new(&[("web.toml", "?")]);
    case.look();
    let unknown = case.folder.found().unknown;
    assert!(unknown.has(&Origin::File("web.toml".to_owned())));
    assert!(!unknown.has(&Origin::File("db.toml".to_owned())));
}

#[test]
fn a_folder_that_goes_away_keeps_what_it_declared() {
    let mut case = Case::new(&[("web.toml", WEB)]);
    case.look();
    let dir = case.dir.path().to_owned();
    let away = dir.with_extension("away");
    fs::rename(&dir, &away).unwrap();
    assert_eq!(case.look(), (true, true));
    assert_eq!(case.services(), ["web"]);
    assert_eq!(case.bad().len(), 1);
    assert_eq!(case.look(), (true, false));
    fs::rename(&away, &dir).unwrap();
    assert_eq!(case.look(), (true, true));
    assert!(case.bad().is_empty());
}

#[test]
fn of_a_folder_that_was_never_there_nothing_is_known() {
    let mut folder = Folder::new("/nonexistent/portolan".into());
    folder.look(clock::unix_ms());
    assert!(folder.found().unknown.has(&Origin::File("any.toml".to_owned())));
}

#[test]
fn two_texts_within_one_tick_of_the_clock_are_told_apart() {
    let mut case = Case::new(&[("web.toml", WEB)]);
    case.folder.look(clock::unix_ms());
    let path = case.dir.path().join("web.toml");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // The same length and time of change: only the text differs.
    case.write("web.toml", &WEB.replace("\"web\"", "\"wob\""));
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    case.look();
    case.look();
    assert_eq!(case.services(), ["wob"]);
}

#[test]
fn a_file_that_is_too_large_is_bad() {
    let large = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
    let mut case = Case::new(&[("web.toml", &large)]);
    case.look();
    assert_eq!(case.bad(), ["web.toml: 1048577 bytes are more than 1048576"]);
}
