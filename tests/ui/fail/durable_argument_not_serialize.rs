use diesel_deferred::deferred_task;

#[derive(Debug, Clone)]
struct Template {
    text: String,
}

#[deferred_task(durable)]
fn render(user_id: i32, template: Template) {
    println!("{user_id} {}", template.text);
}

#[deferred_task(durable)]
async fn render_all(templates: Vec<Template>) {
    println!("{templates:?}");
}

#[deferred_task(durable)]
fn render_borrowed(template: &Template) {
    println!("{template:?}");
}

fn main() {}
