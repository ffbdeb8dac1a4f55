// jinja2's grammar (parser.py), by recursive descent: statements.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "models/templates/expression_parser.h"
#include "models/templates/syntax.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

class Parser : ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, SyntaxTree* tree) : ExpressionParser(std::move(tokens), tree) {
    tree_.loop = SymbolOf("loop");
    tree_.caller = SymbolOf("caller");
    tree_.varargs = SymbolOf("varargs");
    tree_.kwargs = SymbolOf("kwargs");
  }

  void Run() {
    tree_.body = Statements({});
    if (Current().kind != TokenKind::kEnd) Fail("unexpected end of block");
  }

 private:
  Body Statements(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(this);
    Body body;
    while (Current().kind != TokenKind::kEnd) {
      const Token& token = Current();
      if (token.kind == TokenKind::kData) {
        auto data = MakeStatement(StatementKind::kData);
        data->text = Next().text;
        body.push_back(std::move(data));
      } else if (token.kind == TokenKind::kVariableBegin) {
        auto output = MakeStatement(StatementKind::kOutput);
        Next();
        output->expressions.push_back(Tuple(true));
        ExpectKind(TokenKind::kVariableEnd, "end of print statement");
        body.push_back(std::move(output));
      } else if (token.kind == TokenKind::kBlockBegin) {
        Next();
        const auto is_end = [&](std::string_view end) { return IsName(Current(), end); };
        if (std::any_of(ends.begin(), ends.end(), is_end)) return body;
        body.push_back(StatementBlock());
        ExpectKind(TokenKind::kBlockEnd, "end of statement block");
      } else {
        Fail(fmt::format("unexpected '{}'", Describe(token)));
      }
    }
    return body;
  }

  // The body of a statement up to one of `ends`, which stays the current token.
  Body BodyUntil(std::initializer_list<std::string_view> ends) {
    SkipOperator(":");
    ExpectKind(TokenKind::kBlockEnd, "end of statement block");
    Body body = Statements(ends);
    if (Current().kind == TokenKind::kEnd) {
      Fail(fmt::format("Unexpected end of template. Jinja was looking for the following tags: '{}'.",
                       fmt::join(ends, "' or '")));
    }
    return body;
  }

  std::unique_ptr<Statement> StatementBlock() {
    const Token& token = Current();
    if (token.kind != TokenKind::kName) Fail("tag name expected");
    const std::string& name = token.text;
    if (name == "for") return For();
    if (name == "if") return If();
    if (name == "set") return Set();
    if (name == "macro") return Macro();
    if (name == "call") return CallBlock();
    if (name == "filter") return FilterBlock();
    if (name == "with") return With();
    if (name == "print") return Print();
    if (name == "generation") return Generation();
    if (name == "break" || name == "continue") return LoopControl();
    for (const std::string_view known : {"block", "extends", "include", "import", "from", "autoescape"}) {
      if (name == known) Fail(fmt::format("the tag '{}' is not supported in chat templates", name));
    }
    Fail(fmt::format("Encountered unknown tag '{}'.", name));
  }

  std::unique_ptr<Statement> If() {
    auto node = MakeStatement(StatementKind::kIf);
    Next();
    while (true) {
      node->expressions.push_back(Tuple(false));
      node->bodies.push_back(BodyUntil({"elif", "else", "endif"}));
      const std::string end = Next().text;
      if (end == "elif") continue;
      if (end == "else") {
        node->bodies.push_back(BodyUntil({"endif"}));
        Next();
      }
      return node;
    }
  }

  std::unique_ptr<Statement> For() {
    auto node = MakeStatement(StatementKind::kFor);
    Next();
    ++for_depth_;
    node->targets.push_back(Target(false, "in"));
    ExpectName("in");
    node->expressions.push_back(Tuple(false, "recursive"));
    if (SkipName("if")) node->expressions.push_back(Whole());
    node->recursive = SkipName("recursive");
    ++loop_bodies_;
    node->bodies.push_back(BodyUntil({"endfor", "else"}));
    --loop_bodies_;
    if (Next().text == "else") {
      node->bodies.push_back(BodyUntil({"endfor"}));
      Next();
    }
    --for_depth_;
    return node;
  }

  std::unique_ptr<Statement> LoopControl() {
    if (loop_bodies_ == 0) Fail(fmt::format("'{}' outside loop", Current().text));
    auto node = MakeStatement(Current().text == "break" ? StatementKind::kBreak : StatementKind::kContinue);
    Next();
    return node;
  }

  std::unique_ptr<Statement> Set() {
    auto node = MakeStatement(StatementKind::kSet);
    Next();
    node->targets.push_back(Target(true, {}));
    if (SkipOperator("=")) {
      node->expressions.push_back(Tuple(true));
      return node;
    }
    node->kind = StatementKind::kSetBlock;
    if (IsOperator(Current(), "|")) node->expressions.push_back(FilterChain(nullptr, false));
    node->bodies.push_back(BodyUntil({"endset"}));
    Next();
    return node;
  }

  std::unique_ptr<Statement> With() {
    auto node = MakeStatement(StatementKind::kWith);
    Next();
    while (Current().kind != TokenKind::kBlockEnd) {
      if (!node->targets.empty()) ExpectOperator(",");
      node->targets.push_back(Target(false, {}));
      ExpectOperator("=");
      node->expressions.push_back(Whole());
    }
    node->bodies.push_back(BodyUntil({"endwith"}));
    Next();
    return node;
  }

  std::unique_ptr<Statement> Print() {
    auto node = MakeStatement(StatementKind::kOutput);
    Next();
    while (Current().kind != TokenKind::kBlockEnd) {
      if (!node->expressions.empty()) ExpectOperator(",");
      node->expressions.push_back(Whole());
    }
    return node;
  }

  std::unique_ptr<Statement> Generation() {
    auto node = MakeStatement(StatementKind::kScope);
    Next();
    const OutsideLoop outside(this);
    node->bodies.push_back(BodyUntil({"endgeneration"}));
    Next();
    return node;
  }

  std::unique_ptr<Statement> FilterBlock() {
    auto node = MakeStatement(StatementKind::kFilter);
    Next();
    node->expressions.push_back(FilterChain(nullptr, true));
    node->bodies.push_back(BodyUntil({"endfilter"}));
    Next();
    return node;
  }

  // Inside a macro or a call block, break and continue have no loop to act on.
  class OutsideLoop {
   public:
    explicit OutsideLoop(Parser* parser) : parser_(*parser), saved_(parser->loop_bodies_) {
      parser_.loop_bodies_ = 0;
    }
    ~OutsideLoop() { parser_.loop_bodies_ = saved_; }
    OutsideLoop(const OutsideLoop&) = delete;
    OutsideLoop& operator=(const OutsideLoop&) = delete;

   private:
    Parser& parser_;
    int saved_;
  };

  void MacroBody(Statement* node, std::string_view end) {
    const OutsideLoop outside(this);
    macros_.push_back(node);
    node->bodies.push_back(BodyUntil({end}));
    macros_.pop_back();
    Next();
    const auto declares = [&](Symbol symbol) {
      return std::any_of(node->parameters.begin(), node->parameters.end(),
                         [&](const Parameter& p) { return p.symbol == symbol; });
    };
    if (declares(tree_.varargs)) node->uses_varargs = false;
    if (declares(tree_.kwargs)) node->uses_kwargs = false;
    if (declares(tree_.caller) && node->uses_caller) {
      const auto it = std::find_if(node->parameters.begin(), node->parameters.end(),
                                   [&](const Parameter& p) { return p.symbol == tree_.caller; });
      if (!it->fallback) {
        FailAt(node->position,
               "When defining macros or call blocks the special \"caller\" argument must be omitted or be "
               "given a "
               "default.");
      }
    }
  }

  void Signature(Statement* node) {
    ExpectOperator("(");
    while (!IsOperator(Current(), ")")) {
      if (!node->parameters.empty()) ExpectOperator(",");
      Parameter parameter;
      const Position position = Current().position;
      parameter.name = ExpectAnyName();
      if (IsReserved(parameter.name)) FailAt(position, fmt::format("can't assign to '{}'", parameter.name));
      parameter.symbol = SymbolOf(parameter.name);
      for (const auto& other : node->parameters) {
        if (other.name == parameter.name)
          FailAt(position, fmt::format("duplicate argument '{}'", other.name));
      }
      if (SkipOperator("=")) {
        parameter.fallback = Whole();
      } else if (!node->parameters.empty() && node->parameters.back().fallback) {
        FailAt(position, "non-default argument follows default argument");
      }
      node->parameters.push_back(std::move(parameter));
    }
    Next();
  }

  std::unique_ptr<Statement> Macro() {
    auto node = MakeStatement(StatementKind::kMacro);
    Next();
    const Position position = Current().position;
    node->text = ExpectAnyName();
    if (IsReserved(node->text)) FailAt(position, fmt::format("can't assign to '{}'", node->text));
    node->symbol = SymbolOf(node->text);
    Signature(node.get());
    MacroBody(node.get(), "endmacro");
    return node;
  }

  std::unique_ptr<Statement> CallBlock() {
    auto node = MakeStatement(StatementKind::kCall);
    Next();
    if (IsOperator(Current(), "(")) Signature(node.get());
    node->expressions.push_back(Whole());
    if (node->expressions[0]->kind != ExpressionKind::kCall) FailAt(node->position, "expected call");
    MacroBody(node.get(), "endcall");
    return node;
  }

  int loop_bodies_ = 0;
};

}  // namespace

Result<SyntaxTree> ParseTemplate(std::string_view source) {
  SyntaxTree tree;
  tree.source = source;
  if (!IsValidUtf8(source)) return Fail(SyntaxError({1, 1}, "the template is not valid UTF-8"));
  TP_ASSIGN(auto tokens, Tokenize(source));
  try {
    Parser(std::move(tokens), &tree).Run();
  } catch (const ParseFailure& failure) {
    return Fail(failure.error);
  }
  return tree;
}

}  // namespace tidepool::templates
