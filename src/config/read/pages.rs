//! Error pages: files that are read once, with what is wrong with each told where it is named.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use portolan_discovery::model::PageSetName;
use portolan_router::{ErrorPage, ErrorPages, PAGE_BYTES_MAX, PageFor, PageKind, PageSet};
use toml::{Spanned, Value};

use super::Reader;
use crate::config::error::ConfigError;
use crate::config::file::RouteFile;

const KEYS: &str =
    "expected \"503\" = \"FILE\", \"5xx\" = \"FILE\", json = true or a table [error_pages.NAME]";
const FILES: &str = "expected a file of .html, .htm, .xml, .json or .txt";

impl Reader<'_> {
    pub(super) fn error_pages(
        &self,
        file: BTreeMap<String, Spanned<Value>>,
    ) -> Result<ErrorPages, ConfigError> {
        let mut pages = ErrorPages::default();
        for (key, value) in file {
            let place = value.span();
            match (key.as_str(), value.into_inner()) {
                ("json", Value::Boolean(json)) => pages.json = json,
                (_, Value::Table(table)) => {
                    let name = PageSetName::parse(&key)
                        .map_err(|error| self.source.at(place.clone(), error.to_string(), KEYS))?;
                    let mut set = PageSet::default();
                    for (key, value) in table {
                        self.page(&key, &value, &place, &mut set)?;
                    }
                    pages.named.insert(name, set);
                }
                (_, value) => self.page(&key, &value, &place, &mut pages.default)?,
            }
        }
        Ok(pages)
    }

    /// Every set of pages that a route of the file names has to be in the file, too.
    pub(super) fn known_pages(
        &self,
        routes: &[Spanned<RouteFile>],
        sets: &BTreeMap<PageSetName, PageSet>,
    ) -> Result<(), ConfigError> {
        let mut named = routes.iter().filter_map(|route| route.get_ref().error_pages.as_ref());
        if let Some(name) = named.find(|name| !sets.contains_key(name.get_ref())) {
            return Err(self.source.at(
                name.span(),
                format!("there are no error pages \"{}\"", name.get_ref()),
                format!("add a table [error_pages.{}] with pages", name.get_ref()),
            ));
        }
        Ok(())
    }

    fn page(
        &self,
        key: &str,
        value: &Value,
        place: &Range<usize>,
        set: &mut PageSet,
    ) -> Result<(), ConfigError> {
        let wrong = |what: String, hint: &str| self.source.at(place.clone(), what, hint);
        let is_for: PageFor = key
            .parse()
            .map_err(|error| wrong(format!("\"{key}\" is no key of error_pages: {error}"), KEYS))?;
        let Value::String(path) = value else {
            return Err(wrong(format!("the page for {key} is no path"), FILES));
        };
        let path = self.folder.join(path);
        let kind = path.extension().and_then(|extension| extension.to_str());
        let kind = kind
            .and_then(PageKind::of_extension)
            .ok_or_else(|| wrong(format!("{} is no page", path.display()), FILES))?;
        let failed = |error: String| wrong(format!("{}: {error}", path.display()), "");
        let text = read(&path).map_err(failed)?;
        let page = ErrorPage::parse(kind, &text).map_err(|error| failed(error.to_string()))?;
        set.insert(is_for, page);
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > PAGE_BYTES_MAX as u64 {
        return Err(format!("it has {length} bytes: at most {PAGE_BYTES_MAX} are allowed"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}
