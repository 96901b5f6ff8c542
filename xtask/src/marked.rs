//! Parts of pages that a command writes, between two comments.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::place;

const END: &str = "<!-- to here -->";

/// Puts text where the last one was that the command `by` wrote into a page of the workspace.
pub fn write(page: &str, by: &str, text: &str) -> Result<()> {
    let file = place::workspace().join(page);
    let old = fs::read_to_string(&file).with_context(|| format!("cannot read {page}"))?;
    let new = replaced(&old, by, text).with_context(|| page.to_owned())?;
    fs::write(&file, new).with_context(|| format!("cannot write {page}"))?;
    eprintln!("wrote {page}");
    Ok(())
}

fn replaced(page: &str, by: &str, text: &str) -> Result<String> {
    let begin = format!("<!-- `{by}` writes from here -->");
    let Some((before, (_, after))) =
        page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(END)?)))
    else {
        bail!("there is no place for the table: it begins with {begin:?} and ends with {END:?}");
    };
    Ok(format!("{before}{begin}\n\n{}\n\n{END}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_the_place_of_the_last_one() {
        let page = "# A\n<!-- `it` writes from here -->\nold\n<!-- to here -->\nmore\n";
        let new = replaced(page, "it", "new\n").unwrap();
        assert_eq!(new, "# A\n<!-- `it` writes from here -->\n\nnew\n\n<!-- to here -->\nmore\n");
        assert_eq!(replaced(&new, "it", "new\n").unwrap(), new);
        assert!(replaced(page, "another", "new").is_err());
    }
}
