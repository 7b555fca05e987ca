use diesel_deferred::deferred_task;

#[derive(serde::Serialize, serde::Deserialize)]
struct Template {
    text: String,
}

#[deferred_task(durable)]
fn render(user_id: i32, template: &Template) {
    println!("{user_id} {}", template.text);
}

#[deferred_task(durable)]
async fn render_later(user_id: i32, template: &Template) {
    println!("{user_id} {}", template.text);
}

struct Nothing;

#[deferred_task(durable)]
fn neither(nothing: &Nothing) {
    let _ = nothing;
}

fn main() {}
