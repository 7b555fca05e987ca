#[deferred_task(durable)]
fn archive(path: PathBuf, r#type: Kind, #[serde(default, with = "seconds")] age: Duration) -> io::Result<()> {
    store(path, r#type, age)
}
